//! The right to make a new placement of a snapshot, and what those who died while they had it left.

use std::collections::BTreeSet;
use std::time::Duration;

use snapshot_format::{FileKind, SnapshotId};
use snapshot_memory::backend::LockMode;

use crate::directory::{self, Location};
use crate::error::StoreError;
use crate::file;
use crate::lock::{self, Held};
use crate::placed;
use crate::record;
use crate::recovery;
use crate::store::Store;

/// Holds `locks/place.<id>` alone. The file goes with the lock.
#[derive(Debug)]
pub(crate) struct PlaceLock {
    store: Store,
    id: SnapshotId,
    _held: Held,
}

impl PlaceLock {
    /// Takes the lock, waiting as long as the store does.
    pub(crate) fn take(store: &Store, id: SnapshotId) -> Result<Self, StoreError> {
        Self::within(store, id, store.lock_wait())
    }

    fn within(store: &Store, id: SnapshotId, wait: Duration) -> Result<Self, StoreError> {
        let path = directory::place_lock(id);
        let held = lock::take(store.backend(), &path, LockMode::Exclusive, wait)?;
        Ok(Self {
            store: store.clone(),
            id,
            _held: held,
        })
    }

    /// Removes what a writer that died left: its stage, and memory files that got their names and
    /// that no placement names.
    ///
    /// The stage is the mark of the latter, so it goes last.
    pub(crate) fn remove_leftovers(&self) -> Result<(), StoreError> {
        let backend = self.store.backend();
        for location in Location::SEARCH {
            if self.store.exists_at(location, self.id)? {
                self.remove_unnamed(location)?;
            }
        }
        recovery::remove_tree(backend, &directory::placing(self.id), recovery::MAX_DEPTH)
    }

    fn remove_unnamed(&self, location: Location) -> Result<(), StoreError> {
        let (backend, id) = (self.store.backend(), self.id);
        let found = placed::later_memory(backend, location, id)?;
        if found.is_empty() {
            return Ok(());
        }
        let (manifest, digest) = record::read_manifest(backend, location, id)?;
        let mut named: BTreeSet<(FileKind, u32)> = BTreeSet::new();
        for generation in placed::generations(backend, location, id)? {
            let read = placed::read_generation(backend, location, &manifest, digest, generation);
            // One that cannot be read may name any file: all of them stay.
            let Ok(placement) = read else { return Ok(()) };
            named.extend(placement.files.iter().map(|file| (file.kind, file.index)));
        }
        let folder = location.snapshot(id);
        let unnamed = found.iter().filter(|file| !named.contains(file));
        let mut removed = false;
        for &(kind, index) in unnamed {
            let path = directory::below(&folder, &kind.file_name(index));
            file::remove_if_there(backend, &path)?;
            removed = true;
        }
        if removed {
            file::sync_dir(backend, &folder)
                .map_err(|error| StoreError::io("sync", &folder, error))?;
        }
        Ok(())
    }
}

impl Drop for PlaceLock {
    fn drop(&mut self) {
        let path = directory::place_lock(self.id);
        // While the lock is held: whoever waits for it sees that its file is gone.
        if let Err(error) = file::remove_if_there(self.store.backend(), &path) {
            tracing::debug!(%error, "a lock file remains");
        }
    }
}

/// Removes what is left of a new placement of `id`, unless its writer is alive.
pub(crate) fn discard_leftovers(store: &Store, id: SnapshotId) -> Result<(), StoreError> {
    match PlaceLock::within(store, id, Duration::ZERO) {
        Ok(lock) => lock.remove_leftovers(),
        Err(StoreError::Busy { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
