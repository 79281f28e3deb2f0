//! Deleting snapshots: planned, moved to the trash, and brought back.

use std::time::Duration;

use serde::Serialize;
use snapshot_format::sabotage::Sabotage;
use snapshot_format::{SnapshotId, VmName};
use snapshot_memory::backend::LockMode;

use crate::directory::{self, Location};
use crate::error::{Refusal, StoreError};
use crate::file;
use crate::garbage;
use crate::lock::{self, Held};
use crate::record::{self, SnapshotRecord};
use crate::retention::Hold;
use crate::store::Store;
use crate::vm;

/// What deleting a snapshot would do.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct DeletePlan {
    /// Which snapshot.
    pub id: SnapshotId,
    /// Its machine, as far as it can be read.
    pub vm: Option<VmName>,
    /// Bytes of blocks that its files occupy. They are freed when nothing needs them any more.
    pub allocated_bytes: u64,
    /// Snapshots in use that were made from it. They stay whole.
    pub children: Vec<SnapshotId>,
    /// Snapshots in use that need its data: it stays in the trash as long as they are there.
    pub needed_by: Vec<SnapshotId>,
    /// Why it will be refused.
    pub refusal: Option<Refusal>,
}

impl Store {
    /// What deleting `id` would do. Nothing is changed.
    pub fn plan_delete(&self, id: SnapshotId) -> Result<DeletePlan, StoreError> {
        if self.exists_at(Location::Live, id)? {
            self.allow_gc(Location::Live, id)?;
        }
        let vm = match self.record_at(Location::Live, id) {
            Ok(record) => Some(record.vm),
            Err(error @ StoreError::NotFound { .. }) => return Err(error),
            // What is damaged can be deleted too.
            Err(_) => None,
        };
        if let Some(vm) = &vm {
            vm::check_file(self, vm)?;
        }
        let listing = self.list(None)?;
        let child = |record: &&SnapshotRecord| record.parent.is_some_and(|p| p.id == id);
        let refusal = self.refusal(id, vm.as_ref());
        Ok(DeletePlan {
            id,
            vm,
            allocated_bytes: self.allocated_bytes(Location::Live, id)?,
            children: listing
                .snapshots
                .iter()
                .filter(child)
                .map(|r| r.id)
                .collect(),
            needed_by: self.dependents(id)?,
            refusal,
        })
    }

    /// Moves a snapshot to the trash. Snapshots that need its data keep reading it there. Its
    /// materialised image is removed.
    pub fn delete(&self, plan: &DeletePlan) -> Result<(), StoreError> {
        self.delete_unless(plan.id, plan.vm.as_ref(), &|| Ok(None))?;
        Ok(())
    }

    /// Does so, unless `hold`, which is asked under all locks, says what keeps the snapshot.
    pub(crate) fn delete_unless(
        &self,
        id: SnapshotId,
        vm: Option<&VmName>,
        hold: &dyn Fn() -> Result<Option<Hold>, StoreError>,
    ) -> Result<Option<Hold>, StoreError> {
        self.begin_write()?;
        let _vm = vm.map(|vm| self.lock_vm(vm)).transpose()?;
        // A lease that is held now is not waited for: it may be held for days.
        let _alone = self.lock_alone(id)?;
        let _commit = self.lock_exclusively(&directory::commit_lock())?;
        if !self.exists_at(Location::Live, id)? {
            return Err(StoreError::NotFound {
                what: format!("snapshot {id}"),
            });
        }
        self.allow_gc(Location::Live, id)?;
        if let Some(vm) = vm {
            vm::check_file(self, vm)?;
        }
        if let Some(reason) = self.protection(id) {
            return Err(StoreError::Refused { id, reason });
        }
        if let Some(reason) = self.currency(id, vm)? {
            return Err(StoreError::Refused { id, reason });
        }
        if let Some(reason) = self.leased_need(id)? {
            return Err(StoreError::Refused { id, reason });
        }
        if let Some(hold) = hold()? {
            return Ok(Some(hold));
        }
        self.move_between(id, Location::Live, Location::Trash)?;
        self.forget_cached(id);
        if let Some(vm) = vm {
            vm::refresh(self, vm);
        }
        Ok(None)
    }

    /// Brings a deleted snapshot back, under the name that it had.
    pub fn undelete(&self, id: SnapshotId) -> Result<(), StoreError> {
        self.begin_write()?;
        let vm = match self.record_at(Location::Trash, id) {
            Ok(record) => Some(record.vm),
            Err(error @ StoreError::NotFound { .. }) => return Err(error),
            Err(_) => None,
        };
        let _vm = vm.as_ref().map(|vm| self.lock_vm(vm)).transpose()?;
        if let Some(vm) = &vm {
            vm::check_file(self, vm)?;
        }
        let _commit = self.lock_exclusively(&directory::commit_lock())?;
        if let Ok(record) = self.record_at(Location::Trash, id)
            && let Some(name) = &record.metadata.name
        {
            vm::check_name_is_free(self, &record.vm, name, None)?;
        }
        // Its grace is another one when it is deleted again.
        garbage::forget_grace(self, id)?;
        self.move_between(id, Location::Trash, Location::Live)?;
        if let Some(vm) = &vm {
            vm::refresh(self, vm);
        }
        Ok(())
    }

    /// Why `id` would be refused now.
    fn refusal(&self, id: SnapshotId, vm: Option<&VmName>) -> Option<Refusal> {
        if let Some(reason) = self.protection(id) {
            return Some(reason);
        }
        if let Ok(Some(reason)) = self.currency(id, vm) {
            return Some(reason);
        }
        let path = directory::snapshot_lock(id);
        let held = self.backend().lock_holders(&path).unwrap_or_default();
        if !held.is_empty() {
            return Some(Refusal::Leased { holders: held });
        }
        let others = self.others_that_need(id).ok()?;
        others.into_iter().find_map(|by| {
            let path = directory::snapshot_lock(by);
            let holders = self.backend().lock_holders(&path).unwrap_or_default();
            (!holders.is_empty()).then_some(Refusal::Needed { by, holders })
        })
    }

    /// Who has a lease on a snapshot that needs data of `id`.
    ///
    /// A lease that comes a moment later does no harm: it finds the data where it will be.
    fn leased_need(&self, id: SnapshotId) -> Result<Option<Refusal>, StoreError> {
        for by in self.others_that_need(id)? {
            let path = directory::snapshot_lock(by);
            match lock::take(self.backend(), &path, LockMode::Exclusive, Duration::ZERO) {
                Err(StoreError::Busy { holders, .. }) => {
                    return Ok(Some(Refusal::Needed { by, holders }));
                }
                taken => drop(taken?),
            }
        }
        Ok(None)
    }

    /// Whether the machine is on a branch whose head is `id`.
    fn currency(&self, id: SnapshotId, vm: Option<&VmName>) -> Result<Option<Refusal>, StoreError> {
        let current = vm.map(|vm| self.current_head(vm)).transpose()?.flatten();
        let is_head = current.filter(|(_, head)| *head == id);
        Ok(is_head.map(|(branch, _)| Refusal::Current { branch }))
    }

    /// Whether `id` is marked as not to be deleted.
    fn protection(&self, id: SnapshotId) -> Option<Refusal> {
        match record::read_metadata(self.backend(), Location::Live, id) {
            Ok(metadata) if metadata.protected => Some(Refusal::Protected),
            Ok(_) => None,
            Err(_) => Some(Refusal::Unreadable),
        }
    }

    /// Locks a snapshot against every use of it, at once or not at all.
    fn lock_alone(&self, id: SnapshotId) -> Result<Held, StoreError> {
        let path = directory::snapshot_lock(id);
        let mode = if Sabotage::IgnoredLease.is_on() {
            LockMode::Shared
        } else {
            LockMode::Exclusive
        };
        match lock::take(self.backend(), &path, mode, Duration::ZERO) {
            Err(StoreError::Busy { holders, .. }) => Err(StoreError::Refused {
                id,
                reason: Refusal::Leased { holders },
            }),
            result => result,
        }
    }

    /// Moves the directory of `id` by one rename. The commit lock is held.
    ///
    /// The directory that gains it is synced first: at no time is it durable in neither.
    fn move_between(&self, id: SnapshotId, from: Location, to: Location) -> Result<(), StoreError> {
        let (source, target) = (from.snapshot(id), to.snapshot(id));
        self.backend()
            .rename_noreplace(&source, &target)
            .map_err(|error| StoreError::io("move", &source, error))?;
        for location in [to, from] {
            let synced = file::sync_dir(self.backend(), &location.directory());
            synced.map_err(|source| StoreError::DurabilityUncertain {
                what: format!("snapshot {id}"),
                source,
            })?;
        }
        Ok(())
    }
}
