//! What an operator set for one virtual machine: `vms/<vm>.policy`.

use serde::{Deserialize, Serialize};
use snapshot_format::VmName;

use crate::checked_json::{self, Fault};
use crate::consolidation::ConsolidationPolicy;
use crate::directory;
use crate::error::StoreError;
use crate::file;
use crate::retention::{PolicyError, RetentionPolicy};
use crate::store::Store;

/// The highest version of the file that this build knows.
const VERSION: u32 = 3;

/// Bytes of the path of a vault.
const MAX_PATH_BYTES: usize = 4096;

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
    /// When chains are made shorter; `None`: when somebody asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consolidation: Option<ConsolidationPolicy>,
    /// Where its snapshots are archived, unless a command names a vault; `None`: nowhere in particular.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<ArchivePlace>,
}

/// A vault, and the scope of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ArchivePlace {
    /// The folder of the vault, from the root on: the same wherever a command is run.
    pub vault: String,
    /// The scope; `None`: the one that is meant where none is named.
    #[serde(default)]
    pub scope: Option<String>,
}

impl ArchivePlace {
    /// A vault, by the path of its folder from the root on.
    #[must_use]
    pub fn new(vault: String, scope: Option<String>) -> Self {
        Self { vault, scope }
    }

    fn check(&self) -> Result<(), PolicyError> {
        let is_path = self.vault.starts_with('/') && !self.vault.contains('\0');
        // The rules of scopes are those of names.
        let is_scope = self.scope.as_ref();
        let is_scope = is_scope.is_none_or(|scope| VmName::new(scope.as_str()).is_ok());
        if is_path && is_scope && self.vault.len() <= MAX_PATH_BYTES {
            return Ok(());
        }
        Err(PolicyError::ArchivePlace {
            found: self.vault.clone(),
        })
    }
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

    /// Sets [`consolidation`](Self::consolidation).
    #[must_use]
    pub fn consolidation(mut self, consolidation: Option<ConsolidationPolicy>) -> Self {
        self.consolidation = consolidation;
        self
    }

    /// Sets [`archive`](Self::archive).
    #[must_use]
    pub fn archive(mut self, archive: Option<ArchivePlace>) -> Self {
        self.archive = archive;
        self
    }

    /// The lowest version whose readers know all of it.
    fn version(&self) -> u32 {
        match (&self.archive, &self.consolidation) {
            (Some(_), _) => 3,
            (None, Some(_)) => 2,
            (None, None) => 1,
        }
    }

    fn encode(&self, vm: &VmName) -> Result<Vec<u8>, StoreError> {
        if let Some(retention) = &self.retention {
            retention.check()?;
        }
        if let Some(consolidation) = &self.consolidation {
            consolidation.check()?;
        }
        if let Some(archive) = &self.archive {
            archive.check()?;
        }
        checked_json::encode(&Body {
            version: self.version(),
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
        if let Some(consolidation) = &body.policy.consolidation {
            let checked = consolidation.check();
            checked.map_err(|error| Fault::Corrupt(error.to_string()))?;
        }
        if let Some(archive) = &body.policy.archive {
            let checked = archive.check();
            checked.map_err(|error| Fault::Corrupt(error.to_string()))?;
        }
        if body.version < body.policy.version() {
            let problem = format!("it says more than version {} does", body.version);
            return Err(Fault::Corrupt(problem));
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
