//! What is remembered of one virtual machine: `vms/<vm>.json`.
//!
//! Most of it can be derived from the manifests. What cannot: sequence numbers whose snapshots are
//! gone, where branches start that have no snapshot yet, and which branch is current.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use snapshot_format::{BranchName, SnapshotId, VmName};

use crate::checked_json::{self, Fault};
use crate::error::StoreError;

/// The version of the file that this build writes.
pub(crate) const VERSION: u32 = 2;

/// Starts of branches of one machine.
pub(crate) const MAX_STARTS: usize = 1024;

/// The content of `vms/<vm>.json`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct VmFile {
    version: u32,
    /// The virtual machine, as spelled by its first snapshot.
    pub(crate) vm: VmName,
    /// The highest sequence number that was ever given.
    pub(crate) last_seq: u64,
    /// The newest live snapshot of each branch.
    pub(crate) heads: BTreeMap<BranchName, SnapshotId>,
    /// What branches were made from. Version 1 has none.
    #[serde(default)]
    pub(crate) starts: BTreeMap<BranchName, SnapshotId>,
    /// The branch that the machine is on, if somebody said so. Version 1 has none.
    #[serde(default)]
    pub(crate) current: Option<BranchName>,
}

impl VmFile {
    /// A file without starts, and without a current branch.
    pub(crate) fn new(vm: VmName, last_seq: u64, heads: BTreeMap<BranchName, SnapshotId>) -> Self {
        Self {
            version: VERSION,
            vm,
            last_seq,
            heads,
            starts: BTreeMap::new(),
            current: None,
        }
    }

    /// The bytes of the file.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, StoreError> {
        if self.starts.len() > MAX_STARTS {
            return Err(StoreError::TooMany {
                what: "branches of a machine",
                limit: MAX_STARTS,
            });
        }
        checked_json::encode(self).map_err(|source| StoreError::EncodeJson { source })
    }

    /// What the file of `vm` says.
    pub(crate) fn decode(vm: &VmName, bytes: &[u8]) -> Result<Self, Fault> {
        let file: Self = checked_json::decode(bytes, VERSION)?;
        if file.vm.key() == vm.key() {
            Ok(file)
        } else {
            Err(Fault::Corrupt(format!("it belongs to VM {}", file.vm)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(vm: &VmName) -> VmFile {
        let heads = BTreeMap::from([(BranchName::main(), SnapshotId([3; 16]))]);
        let mut file = VmFile::new(vm.clone(), 7, heads);
        let fix = BranchName::new("fix").unwrap();
        file.starts.insert(fix.clone(), SnapshotId([4; 16]));
        file.current = Some(fix);
        file
    }

    // spec: STO-08
    // spec: TRE-09
    #[test]
    fn a_file_stays_with_its_machine() {
        let (vm, other) = (VmName::new("web").unwrap(), VmName::new("db").unwrap());
        let bytes = file(&vm).encode().unwrap();
        assert_eq!(VmFile::decode(&vm, &bytes), Ok(file(&vm)));
        VmFile::decode(&other, &bytes).unwrap_err();
        let mut many = file(&vm);
        many.starts = (0..=MAX_STARTS)
            .map(|n| {
                (
                    BranchName::new(format!("b{n}")).unwrap(),
                    SnapshotId([1; 16]),
                )
            })
            .collect();
        many.encode().unwrap_err();
    }

    // spec: TRE-09
    #[test]
    fn the_first_version_has_neither_starts_nor_a_current_branch() {
        #[derive(Serialize)]
        struct First {
            version: u32,
            vm: VmName,
            last_seq: u64,
            heads: BTreeMap<BranchName, SnapshotId>,
        }
        let vm = VmName::new("web").unwrap();
        let bytes = checked_json::encode(&First {
            version: 1,
            vm: vm.clone(),
            last_seq: 9,
            heads: BTreeMap::new(),
        });
        let read = VmFile::decode(&vm, &bytes.unwrap()).unwrap();
        assert_eq!(
            (read.last_seq, read.starts.len(), read.current),
            (9, 0, None)
        );
    }
}
