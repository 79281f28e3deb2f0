//! How much space the snapshots of one virtual machine may take.

use snapshot_format::{SnapshotId, VmName};

use crate::directory::{self, Location};
use crate::error::StoreError;
use crate::store::Store;

/// Fails if `needed_bytes` more for `vm` are beyond its quota.
///
/// A policy that cannot be read has no quota that could be kept: that is an error, too.
pub(crate) fn check(store: &Store, vm: &VmName, needed_bytes: u64) -> Result<(), StoreError> {
    let Some(quota_bytes) = store.policy(vm)?.quota_bytes else {
        return Ok(());
    };
    let used_bytes = used(store, vm)?;
    if used_bytes.saturating_add(needed_bytes) <= quota_bytes {
        return Ok(());
    }
    Err(StoreError::Quota {
        vm: vm.clone(),
        needed_bytes,
        used_bytes,
        quota_bytes,
    })
}

/// Bytes of blocks in the stage of a snapshot.
pub(crate) fn of_stage(store: &Store, id: SnapshotId) -> Result<u64, StoreError> {
    let mut allocated: u64 = 0;
    store.each_file(&directory::stage(id), &mut |_, found| {
        allocated = allocated.saturating_add(found.allocated_bytes);
    })?;
    Ok(allocated)
}

/// Bytes of blocks that the snapshots of `vm` take, deleted ones included.
fn used(store: &Store, vm: &VmName) -> Result<u64, StoreError> {
    let mut used: u64 = 0;
    for location in Location::SEARCH {
        for record in store.list_at(location, Some(vm))?.snapshots {
            used = used.saturating_add(store.allocated_bytes(location, record.id)?);
        }
    }
    Ok(used)
}
