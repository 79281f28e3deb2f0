//! Keeping snapshots from being destroyed while they are used.

use std::io;
use std::os::fd::BorrowedFd;

use snapshot_format::SnapshotId;
use snapshot_memory::backend::LockMode;

use crate::directory;
use crate::error::StoreError;
use crate::lock::{self, Held};
use crate::store::Store;

/// Keeps a snapshot, and every snapshot whose data it needs, from being destroyed.
///
/// It is one shared lock, on the snapshot itself: whoever destroys asks whether anything that
/// needs the data is leased. The descriptor closes on exec: the lease ends when it is dropped, when
/// the process dies, or, where the descriptor was passed on, when the last copy is closed.
#[derive(Debug)]
pub struct Lease {
    snapshot: SnapshotId,
    lock: Option<Held>,
}

impl Lease {
    /// Locks `snapshot`.
    ///
    /// In a store that can only be read no lock file is made: what has none is not locked, and
    /// whoever reads it copes with its absence.
    pub(crate) fn take(store: &Store, snapshot: SnapshotId) -> Result<Self, StoreError> {
        let lock = lock_shared(store, snapshot)?;
        Ok(Self { snapshot, lock })
    }

    /// The snapshot that is kept, with all that any placement of it names.
    pub fn snapshot(&self) -> SnapshotId {
        self.snapshot
    }

    /// The descriptor that holds the lock, to pass on to another process. `None` where there is
    /// nothing to lock: in a store that can only be read.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.lock.as_ref().and_then(|lock| lock.as_fd())
    }
}

fn lock_shared(store: &Store, id: SnapshotId) -> Result<Option<Held>, StoreError> {
    let path = directory::snapshot_lock(id);
    if store.is_writable() {
        let wait = store.lock_wait();
        return lock::take(store.backend(), &path, LockMode::Shared, wait).map(Some);
    }
    match store.backend().metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound || forbids(&error) => {
            return Ok(None);
        }
        Err(error) => return Err(StoreError::io("look at", &path, error)),
        Ok(_) => {}
    }
    match lock::take(store.backend(), &path, LockMode::Shared, store.lock_wait()) {
        Ok(lock) => Ok(Some(lock)),
        // Another user's lock file, or one that went away on a medium that cannot be written.
        Err(StoreError::Io { source, .. }) if forbids(&source) => Ok(None),
        Err(error) => Err(error),
    }
}

fn forbids(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
    )
}
