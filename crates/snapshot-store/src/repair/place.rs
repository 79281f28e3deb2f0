//! The directory of a snapshot that is being repaired.

use snapshot_format::{Digest, Manifest, SnapshotId};

use crate::directory::Location;
use crate::error::StoreError;
use crate::lease::Lease;
use crate::placing::PlaceLock;
use crate::store::Store;

/// Where a snapshot is that is being looked at. Nobody else makes a placement of it.
pub(super) struct Place {
    pub(super) id: SnapshotId,
    pub(super) location: Location,
    _lock: Option<PlaceLock>,
    _lease: Lease,
}

/// One whose manifest can be read.
pub(super) struct Target {
    pub(super) place: Place,
    pub(super) manifest: Manifest,
    pub(super) digest: Digest,
}

impl Place {
    /// Leases the snapshot and, where something is to be changed, takes the right to do so.
    pub(super) fn take(
        store: &Store,
        id: SnapshotId,
        location: Location,
        dry_run: bool,
    ) -> Result<Self, StoreError> {
        let lock = if dry_run {
            None
        } else {
            let lock = PlaceLock::take(store, id)?;
            lock.remove_leftovers()?;
            Some(lock)
        };
        Ok(Self {
            id,
            location,
            _lock: lock,
            _lease: Lease::take(store, id)?,
        })
    }

    /// Fails if the snapshot moved to the trash, or back, since it was looked at. The commit lock is
    /// held.
    pub(super) fn still_there(&self, store: &Store) -> Result<(), StoreError> {
        if store.whereabouts(self.id)? == Some(self.location) {
            Ok(())
        } else {
            Err(self.overtaken())
        }
    }

    pub(super) fn overtaken(&self) -> StoreError {
        StoreError::Overtaken {
            what: format!("snapshot {}", self.id),
        }
    }
}
