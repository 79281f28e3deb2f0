//! Branches: lines of snapshots with a name, and the one that a machine is on.

use std::collections::BTreeMap;

use serde::Serialize;
use snapshot_format::{BranchName, SnapshotId, VmName};

use crate::directory::{self, Location};
use crate::error::{Refusal, StoreError};
use crate::record::SnapshotRecord;
use crate::store::Store;
use crate::vm;
use crate::vm_file::VmFile;

/// A branch of a virtual machine.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct BranchRecord {
    /// Its name.
    pub name: BranchName,
    /// The snapshot that the next one on it stands on; `None` where that is deleted.
    pub head: Option<SnapshotId>,
    /// What it was made from, if it was made before its first snapshot was taken.
    pub start: Option<SnapshotId>,
    /// How many snapshots in use were taken on it.
    pub snapshots: u64,
    /// Whether the machine is on it.
    pub is_current: bool,
}

impl Store {
    /// The branches of a machine, by name.
    pub fn branches(&self, vm: &VmName) -> Result<Vec<BranchRecord>, StoreError> {
        let records = self.list(Some(vm))?.snapshots;
        let file = vm::read(self, vm)?;
        if records.is_empty() && file.as_ref().is_none_or(|file| file.starts.is_empty()) {
            return Err(StoreError::NotFound {
                what: format!("a branch of VM {vm}"),
            });
        }
        let mut is_live = BTreeMap::new();
        for start in file.iter().flat_map(|file| file.starts.values()) {
            is_live.insert(*start, self.exists_at(Location::Live, *start)?);
        }
        let is_live = |id: SnapshotId| is_live.get(&id) == Some(&true);
        Ok(branches_of(&records, file.as_ref(), &is_live))
    }

    /// The branch of a machine with this name, in any case.
    pub fn branch(&self, vm: &VmName, name: &BranchName) -> Result<BranchRecord, StoreError> {
        let missing = || StoreError::NotFound {
            what: format!("branch {name} of VM {vm}"),
        };
        let branches = self.branches(vm).map_err(|error| match error {
            StoreError::NotFound { .. } => missing(),
            error => error,
        })?;
        find(branches, name).ok_or_else(missing)
    }

    /// The branch on which the next snapshot of a machine is taken where none is named.
    ///
    /// None is taken while a later version wrote which one that is.
    pub fn branch_for_next(&self, vm: &VmName) -> BranchName {
        let file = vm::read(self, vm).ok().flatten();
        let current = file.and_then(|file| file.current);
        current.unwrap_or_else(BranchName::main)
    }

    /// The branch that a machine is on, and its head.
    pub(crate) fn current_head(
        &self,
        vm: &VmName,
    ) -> Result<Option<(BranchName, SnapshotId)>, StoreError> {
        let Some(current) = vm::read(self, vm)?.and_then(|file| file.current) else {
            return Ok(None);
        };
        match self.branch(vm, &current) {
            Ok(branch) => Ok(branch.head.map(|head| (branch.name, head))),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a branch that starts at a snapshot in use, of whichever machine.
    pub fn create_branch(
        &self,
        vm: &VmName,
        name: &BranchName,
        start: SnapshotId,
    ) -> Result<BranchRecord, StoreError> {
        self.begin_write()?;
        let _vm = self.lock_vm(vm)?;
        vm::check_spelling(self, vm)?;
        match self.branch(vm, name) {
            Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error),
            Ok(taken) => {
                return Err(StoreError::Exists {
                    what: format!("branch {} of VM {vm}", taken.name),
                });
            }
        }
        let _commit = self.lock_exclusively(&directory::commit_lock())?;
        // A start that nobody can read is none to begin from.
        self.snapshot(start)?;
        vm::change(self, vm, |file| {
            file.starts.insert(name.clone(), start);
        })?;
        self.branch(vm, name)
    }

    /// Takes a branch away on which no snapshot in use was taken, and gives what it was.
    pub fn remove_branch(
        &self,
        vm: &VmName,
        name: &BranchName,
    ) -> Result<BranchRecord, StoreError> {
        self.begin_write()?;
        let _vm = self.lock_vm(vm)?;
        let branch = self.branch(vm, name)?;
        let name = || branch.name.clone();
        let reason = if branch.is_current {
            Some(Refusal::Current { branch: name() })
        } else {
            (branch.snapshots > 0).then(|| Refusal::OnBranch { branch: name() })
        };
        // A branch has a snapshot or a start: it would not be there otherwise.
        if let (Some(reason), Some(id)) = (reason, branch.head.or(branch.start)) {
            return Err(StoreError::Refused { id, reason });
        }
        vm::change(self, vm, |file| {
            file.starts.remove(&branch.name);
        })?;
        Ok(branch)
    }

    /// Says which branch a machine is on, or that it is on none that matters.
    pub fn switch(
        &self,
        vm: &VmName,
        name: Option<&BranchName>,
    ) -> Result<Option<BranchRecord>, StoreError> {
        self.begin_write()?;
        let _vm = self.lock_vm(vm)?;
        let branch = name.map(|name| self.branch(vm, name)).transpose()?;
        let current = branch.as_ref().map(|branch| branch.name.clone());
        if vm::read(self, vm)?.map(|file| file.current) != Some(current.clone()) {
            vm::change(self, vm, |file| file.current = current)?;
        }
        name.map(|name| self.branch(vm, name)).transpose()
    }
}

/// The branches that `records`, all of one machine by ascending number, and its file speak of.
fn branches_of(
    records: &[SnapshotRecord],
    file: Option<&VmFile>,
    is_live: &dyn Fn(SnapshotId) -> bool,
) -> Vec<BranchRecord> {
    let current = file.and_then(|file| file.current.as_ref());
    let mut branches: BTreeMap<&BranchName, BranchRecord> = BTreeMap::new();
    let fresh = |name: &BranchName| BranchRecord {
        name: name.clone(),
        head: None,
        start: None,
        snapshots: 0,
        is_current: current == Some(name),
    };
    for (name, &start) in file.iter().flat_map(|file| &file.starts) {
        let branch = branches.entry(name).or_insert_with(|| fresh(name));
        branch.start = Some(start);
        branch.head = is_live(start).then_some(start);
    }
    for record in records {
        let name = &record.branch;
        let branch = branches.entry(name).or_insert_with(|| fresh(name));
        branch.head = Some(record.id);
        branch.snapshots += 1;
    }
    branches.into_values().collect()
}

/// The one of this name; of several whose names differ in case, the one that is spelled so.
fn find(branches: Vec<BranchRecord>, name: &BranchName) -> Option<BranchRecord> {
    let exact = branches.iter().position(|branch| branch.name == *name);
    let similar = || {
        branches
            .iter()
            .position(|branch| branch.name.key() == name.key())
    };
    let at = exact.or_else(similar)?;
    branches.into_iter().nth(at)
}
