//! The working set of a snapshot, kept true by what its guests touch.

use snapshot_format::{MemoryLayout, PAGE_BYTES, SnapshotId, SnapshotRef};
use snapshot_memory::{
    Change, MemoryImage, Observed, Refreshed, WorkingSet, WorkingSetError, WorkingSetFault,
    WorkingSetKeeper, WorkingSetOptions, write_working_set,
};

use crate::error::{ErrorKind, StoreError};
use crate::store::Store;

/// Keeps the working set of one snapshot in a store: opens it for those who bring the snapshot
/// back, and makes a new one count where what a guest touched is worth it.
///
/// Several may do so at once, in any processes: a new placement is made by one at a time, who then
/// looks again at the set that counts.
#[derive(Clone, Debug)]
pub struct WorkingSetRefresher {
    store: Store,
    id: SnapshotId,
    options: WorkingSetOptions,
}

impl Store {
    /// What keeps the working set of a snapshot, which holds as much as `options` say.
    #[must_use]
    pub fn working_set_refresher(
        &self,
        id: SnapshotId,
        options: WorkingSetOptions,
    ) -> WorkingSetRefresher {
        WorkingSetRefresher {
            store: self.clone(),
            id,
            options,
        }
    }
}

impl WorkingSetRefresher {
    /// Opens the working set that counts; `None`: there is none.
    pub fn open(&self) -> Result<Option<WorkingSet>, StoreError> {
        let Some(stored) = self.store.working_set(self.id)? else {
            return Ok(None);
        };
        let (snapshot, layout) = self.snapshot()?;
        // An open file is read on, whatever becomes of its name.
        let (file, _lease) = stored.into_parts();
        Ok(Some(WorkingSet::from_file(file, snapshot, &layout)?))
    }

    /// Makes a new working set count if what was observed is worth it.
    pub fn refresh(&self, observed: &Observed) -> Result<Refreshed, StoreError> {
        let change = Change::of(
            self.current()?.as_ref().map(WorkingSet::index),
            observed,
            &self.options,
        );
        if !change.verdict.publishes() {
            return Ok(Refreshed::kept(change));
        }
        let mut stage = self.store.stage_working_set(self.id)?;
        // Another may have been here since. Nobody is while the stage stands.
        let current = self.current()?;
        let index = current.as_ref().map(WorkingSet::index);
        let change = Change::of(index, observed, &self.options);
        let Some(pages) = change.pages(index, observed) else {
            return Ok(Refreshed::kept(change));
        };
        let (snapshot, _) = self.snapshot()?;
        let stored = self.store.image(self.id)?;
        let image: &MemoryImage = stored.image();
        let most = pages.pages().saturating_mul(PAGE_BYTES);
        stage.require_room(most.min(self.options.max_bytes))?;
        let written = write_working_set(image, snapshot, &pages, &self.options, stage.file())?;
        let report = stage.publish()?;
        Ok(Refreshed::published(change, report.generation, written))
    }

    /// The working set that counts, where it is of any use: a damaged one is made anew.
    fn current(&self) -> Result<Option<WorkingSet>, StoreError> {
        match self.open() {
            // What is wrong with the snapshot itself is met again by whoever writes a new one.
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                let id = self.id;
                tracing::warn!(%id, %error, "a working set is of no use, and is made anew");
                Ok(None)
            }
            opened => opened,
        }
    }

    fn snapshot(&self) -> Result<(SnapshotRef, MemoryLayout), StoreError> {
        let record = self.store.snapshot(self.id)?;
        Ok((record.reference(), record.layout))
    }
}

impl WorkingSetKeeper for WorkingSetRefresher {
    fn open(&self) -> Result<Option<WorkingSet>, WorkingSetError> {
        Self::open(self).map_err(kept)
    }

    fn refresh(&self, observed: &Observed) -> Result<Refreshed, WorkingSetError> {
        Self::refresh(self, observed).map_err(kept)
    }
}

fn kept(error: StoreError) -> WorkingSetError {
    match error {
        StoreError::WorkingSet { source } => *source,
        error => WorkingSetError::Keeper {
            fault: match error.kind() {
                ErrorKind::Corrupt | ErrorKind::TooNew => WorkingSetFault::Damaged,
                _ => WorkingSetFault::Unreadable,
            },
            source: Box::new(error),
        },
    }
}
