//! What is remembered of one virtual machine: `vms/<vm>.json`.
//!
//! All of it can be derived from the manifests, except sequence numbers whose snapshots are gone.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use snapshot_format::{BranchName, SnapshotId, VmName};

use crate::checked_json::{self, Fault};
use crate::error::StoreError;

/// The version of the file that this build writes.
pub(crate) const VERSION: u32 = 1;

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
}

impl VmFile {
    pub(crate) fn new(vm: VmName, last_seq: u64, heads: BTreeMap<BranchName, SnapshotId>) -> Self {
        Self {
            version: VERSION,
            vm,
            last_seq,
            heads,
        }
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>, StoreError> {
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

    // spec: STO-08
    #[test]
    fn a_file_stays_with_its_machine() {
        let (vm, other) = (VmName::new("web").unwrap(), VmName::new("db").unwrap());
        let heads = BTreeMap::from([(BranchName::main(), SnapshotId([3; 16]))]);
        let file = VmFile::new(vm.clone(), 7, heads);
        let bytes = file.encode().unwrap();
        assert_eq!(VmFile::decode(&vm, &bytes), Ok(file));
        VmFile::decode(&other, &bytes).unwrap_err();
    }
}
