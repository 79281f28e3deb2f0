//! The working set of a snapshot: recorded by one guest, refreshed by others.

use snapshot_format::{SnapshotId, WorkingSetOrigin};
use snapshot_memory::{
    TouchedPages, WorkingSet, WorkingSetError, WorkingSetOptions, write_working_set,
};
use snapshot_store::Store;
use tinyvm::Guest;

use crate::stored_guest::Failure;

/// What became of the working set of a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Recorded {
    /// There was none before.
    New,
    /// A new one took the place of that from before.
    Again,
    /// The guest had touched nothing.
    Nothing,
}

/// Makes what `guest`, brought back from the snapshot `id`, has touched the snapshot's working set.
///
/// What is brought in before anybody touches it is not in the trace of its server: the pages of the
/// working set from before stay, those that were missed follow.
pub(super) fn record(
    store: &Store,
    id: SnapshotId,
    guest: &dyn Guest,
) -> Result<Recorded, Failure> {
    let pages = guest.planned().ok_or("no plan restored this guest")?;
    let snapshot = store.snapshot(id)?.reference();
    let (image, _lease) = store.image(id)?.into_parts();
    let page_count = image.layout().page_count();
    let mut touched = TouchedPages::new(page_count, WorkingSetOrigin::Trace);
    let before = store.working_set(id)?;
    let mut is_refreshed = false;
    if let Some(before) = before {
        let (file, _lease) = before.into_parts();
        let before = WorkingSet::from_file(file, snapshot, image.layout())?;
        touched.add_all(before.index().runs.iter().map(|run| run.pages));
        is_refreshed = true;
    }
    match pages.server() {
        Some(server) => touched.add_all(server.trace().runs),
        None => touched.add_all(TouchedPages::present(&*pages)?.runs().iter().copied()),
    }
    let mut stage = store.stage_working_set(id)?;
    let options = WorkingSetOptions::default();
    match write_working_set(&image, snapshot, &touched, &options, stage.file()) {
        Ok(_) => {}
        Err(WorkingSetError::Empty) => return Ok(Recorded::Nothing),
        Err(error) => return Err(error.into()),
    }
    stage.publish()?;
    Ok(if is_refreshed {
        Recorded::Again
    } else {
        Recorded::New
    })
}
