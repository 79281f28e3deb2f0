//! The lock of a snapshot that does not exist yet.

use std::time::Duration;

use snapshot_format::SnapshotId;
use snapshot_memory::backend::LockMode;

use crate::directory;
use crate::error::StoreError;
use crate::file;
use crate::lock::{self, Held};
use crate::store::Store;

/// Holds `locks/<id>` alone. If the snapshot is not published, the file goes with the lock.
#[derive(Debug)]
pub(super) struct OwnLock {
    store: Store,
    id: SnapshotId,
    published: bool,
    _held: Held,
}

impl OwnLock {
    pub(super) fn take(store: &Store, id: SnapshotId) -> Result<Self, StoreError> {
        let path = directory::snapshot_lock(id);
        let wait = Duration::ZERO;
        let held = lock::take(store.backend(), &path, LockMode::Exclusive, wait)?;
        Ok(Self {
            store: store.clone(),
            id,
            published: false,
            _held: held,
        })
    }

    /// Keeps the lock file: readers will lock it.
    pub(super) fn keep_file(&mut self) {
        self.published = true;
    }
}

impl Drop for OwnLock {
    fn drop(&mut self) {
        let path = directory::snapshot_lock(self.id);
        // While the lock is held: whoever waits for it sees that its file is gone.
        if !self.published
            && let Err(error) = file::remove_if_there(self.store.backend(), &path)
        {
            tracing::debug!(%error, "a lock file remains");
        }
    }
}
