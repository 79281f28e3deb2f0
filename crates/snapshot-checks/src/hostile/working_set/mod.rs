//! Working sets that are changed behind the back of a store, and such as lie behind right digests.
//!
//! Every one is brought back with, into served memory and into plain memory, and every byte of both
//! is compared. What only a writer of the store can do, pages of other bytes that all digests up to
//! the placement agree on, is told by verifying.

mod forged;
mod forgery;
mod in_place;
mod rig;

use std::time::Duration;

use super::store::Fallible;
use crate::hostile::Tally;
use crate::watchdog::Watchdog;
use rig::Rig;

/// Nothing takes as long: a thread waits for a page that does not come.
const STANDS_STILL: Duration = Duration::from_mins(15);

/// Changes the working sets of small snapshots in every way, and of larger ones, which are read in
/// several pieces, where parts of the file meet.
pub(super) fn run(tally: &mut Tally) -> Fallible<()> {
    let watchdog = Watchdog::start(STANDS_STILL, |what| {
        eprintln!("hostile: {what}: stands still");
    })?;
    for (pages, every) in [(60, 1), (700, 16)] {
        watchdog.begins(format!("working sets of {pages} pages"));
        let rig = Rig::new(pages, every)?;
        rig.expect_sound()?;
        in_place::run(&rig, tally)?;
        watchdog.begins(format!("forged working sets of {pages} pages"));
        forged::run(&rig, tally)?;
    }
    Ok(())
}
