//! What an operator set for one virtual machine: `vms/<vm>.policy`.

use serde::{Deserialize, Serialize};
use snapshot_format::VmName;

use crate::checked_json::{self, Fault};
use crate::directory;
use crate::error::StoreError;
use crate::file;
use crate::retention::RetentionPolicy;
use crate::store::Store;

/// The version of the file that this build writes.
const VERSION: u32 = 1;

/// What an operator set for one virtual machine. None of it can be derived.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct VmPolicy {
    /// Which snapshots stay in use; `None`: pruning the machine is refused.
    #[serde(default)]
    pub retention: Option<RetentionPolicy>,
    /// Blocks that its snapshots may take, deleted ones included, in bytes.
    #[serde(default)]
    pub quota_bytes: Option<u64>,
}

/// The content of the file: bound to its machine.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    version: u32,
    vm: VmName,
    policy: VmPolicy,
}

impl VmPolicy {
    /// Sets [`retention`](Self::retention).
    #[must_use]
    pub fn retention(mut self, retention: Option<RetentionPolicy>) -> Self {
        self.retention = retention;
        self
    }

    /// Sets [`quota_bytes`](Self::quota_bytes).
    #[must_use]
    pub fn quota_bytes(mut self, quota_bytes: Option<u64>) -> Self {
        self.quota_bytes = quota_bytes;
        self
    }

    fn encode(&self, vm: &VmName) -> Result<Vec<u8>, StoreError> {
        if let Some(retention) = &self.retention {
            retention.check()?;
        }
        checked_json::encode(&Body {
            version: VERSION,
            vm: vm.clone(),
            policy: self.clone(),
        })
        .map_err(|source| StoreError::EncodeJson { source })
    }

    fn decode(vm: &VmName, bytes: &[u8]) -> Result<Self, Fault> {
        let body: Body = checked_json::decode(bytes, VERSION)?;
        if body.vm.key() != vm.key() {
            return Err(Fault::Corrupt(format!("it belongs to VM {}", body.vm)));
        }
        if let Some(retention) = &body.policy.retention {
            let checked = retention.check();
            checked.map_err(|error| Fault::Corrupt(error.to_string()))?;
        }
        Ok(body.policy)
    }
}

impl Store {
    /// What is set for `vm`; nothing, if nothing was.
    ///
    /// A file that is damaged or of a later version is an error: it does not count as nothing.
    pub fn policy(&self, vm: &VmName) -> Result<VmPolicy, StoreError> {
        let name = directory::policy_file_name(vm);
        let path = directory::below(&directory::vm_directory(), &name);
        match file::read(self.backend(), &path, checked_json::MAX_BYTES) {
            Ok(bytes) => {
                VmPolicy::decode(vm, &bytes).map_err(|fault| StoreError::fault(&path, fault))
            }
            Err(error) if error.is_missing_file() => Ok(VmPolicy::default()),
            Err(error) => Err(error),
        }
    }

    /// Sets all of the policy of `vm` anew, whatever was there.
    pub fn set_policy(&self, vm: &VmName, policy: &VmPolicy) -> Result<(), StoreError> {
        self.begin_write()?;
        let bytes = policy.encode(vm)?;
        let _vm = self.lock_vm(vm)?;
        let folder = directory::vm_directory();
        let name = directory::policy_file_name(vm);
        let access = self.own_file_access();
        file::replace(self.backend(), &folder, &name, &bytes, access)
    }
}
