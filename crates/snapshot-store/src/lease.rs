//! Keeping snapshots from being deleted while they are used.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::BorrowedFd;

use snapshot_format::SnapshotId;
use snapshot_memory::backend::LockMode;

use crate::directory;
use crate::error::StoreError;
use crate::lock::{self, Held};
use crate::store::Store;

/// Keeps a snapshot, and every snapshot whose data it needs, from being deleted.
///
/// It holds shared locks on descriptors of its own, which close on exec: it ends when it is
/// dropped, when the process dies, or, where a descriptor was passed on, when the last copy is
/// closed.
#[derive(Debug)]
pub struct Lease {
    snapshots: BTreeSet<SnapshotId>,
    locks: Vec<Held>,
}

impl Lease {
    /// Locks every one of `snapshots`, in the order of their ids.
    ///
    /// In a store that can only be read no lock file is made: what has none is not locked, and
    /// whoever reads it copes with its absence.
    pub(crate) fn take(store: &Store, snapshots: BTreeSet<SnapshotId>) -> Result<Self, StoreError> {
        let mut locks = Vec::with_capacity(snapshots.len());
        for &id in &snapshots {
            locks.extend(lock_shared(store, id)?);
        }
        Ok(Self { snapshots, locks })
    }

    /// The snapshots that are kept.
    pub fn snapshots(&self) -> impl Iterator<Item = SnapshotId> + '_ {
        self.snapshots.iter().copied()
    }

    /// The descriptors that hold the locks, to pass on to another process.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.locks.iter().filter_map(|lock| lock.as_fd())
    }
}

fn lock_shared(store: &Store, id: SnapshotId) -> Result<Option<Held>, StoreError> {
    let path = directory::snapshot_lock(id);
    if store.is_writable() {
        let wait = store.lock_wait();
        return lock::take(store.backend(), &path, LockMode::Shared, wait).map(Some);
    }
    match store.backend().metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
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
