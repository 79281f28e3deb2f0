//! What goes on beside a guest that was brought back: the check that its plan promised, and the
//! replay of a working set.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use snapshot_memory::{CheckOutcome, ReplayOptions, Replayed, WorkingSet, WorkingSetError};
use tinyvm::{Guest, GuestPages};

use crate::random::Random;
use crate::stored_guest::Failure;

/// Threads of a replay.
const THREADS: usize = 2;

/// Work beside a guest.
#[derive(Debug, Default)]
pub(crate) struct Beside {
    check: Option<JoinHandle<CheckOutcome>>,
    replay: Option<JoinHandle<Result<Replayed, WorkingSetError>>>,
}

impl Beside {
    /// Brings the first part of `working_set`, and begins all that is done beside `guest`, which has
    /// not run yet.
    pub(crate) fn begin(
        guest: &dyn Guest,
        working_set: Option<WorkingSet>,
        random: &mut Random,
    ) -> Result<Self, Failure> {
        let Some(pages) = guest.planned() else {
            return Ok(Self::default());
        };
        let check = pages
            .take_check()
            .map(|check| thread::spawn(|| check.run()));
        let mut replay = None;
        if let Some(mut set) = working_set {
            let before = random.below(set.view().data_pages * 4096 + 1);
            let first = ReplayOptions::new(THREADS).part(0..before);
            replay_into(&pages, &mut set, &first)?;
            let rest = ReplayOptions::new(THREADS).part(before..u64::MAX);
            let pages = Arc::clone(&pages);
            replay = Some(thread::spawn(move || replay_into(&pages, &mut set, &rest)));
        }
        Ok(Self { check, replay })
    }

    /// Waits until all of it is done. The error says what was found.
    pub(crate) fn end(self) -> Result<(), Failure> {
        if let Some(replay) = self.replay {
            replay.join().map_err(|_| "a replay panicked")??;
        }
        if let Some(check) = self.check {
            let outcome = check.join().map_err(|_| "a check panicked")?;
            if !outcome.is_sound() {
                return Err(format!("what is mapped is not the snapshot: {outcome:?}").into());
            }
        }
        Ok(())
    }
}

fn replay_into(
    pages: &GuestPages,
    set: &mut WorkingSet,
    options: &ReplayOptions,
) -> Result<Replayed, WorkingSetError> {
    match pages.server() {
        Some(server) => set.replay(server, options),
        None => Ok(Replayed::default()),
    }
}
