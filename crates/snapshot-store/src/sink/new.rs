//! What a snapshot is to be, apart from the machine's memory and state.

use snapshot_format::{Arch, BranchName, SectionPayload, SnapshotName, SnapshotRef, VmName};
use snapshot_memory::CaptureOptions;

use crate::metadata::Metadata;
use crate::pattern::NameTemplate;

/// A snapshot to be taken.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NewSnapshot {
    /// The virtual machine.
    pub vm: VmName,
    /// The architecture of the guest.
    pub arch: Arch,
    /// The branch that it is taken on: `main` unless set.
    pub branch: BranchName,
    /// What it is taken relative to, or after. Its digest must be that of the snapshot in the
    /// store.
    pub parent: Option<SnapshotRef>,
    /// Name, description, labels, tags, protection.
    pub metadata: Metadata,
    /// What it is to be called once it has its number. Then `metadata` has no name.
    pub name_template: Option<NameTemplate>,
    /// The VMM's configuration of the machine, opaque.
    pub config: Vec<u8>,
    /// What a host must have to run the guest.
    pub fingerprint: Option<SectionPayload>,
    /// How memory is written.
    pub capture: CaptureOptions,
}

impl NewSnapshot {
    /// A snapshot of `vm` without a parent, on the branch `main`, for this build's architecture.
    #[must_use]
    pub fn of(vm: VmName) -> Self {
        Self {
            vm,
            arch: Arch::host(),
            branch: BranchName::main(),
            parent: None,
            metadata: Metadata::default(),
            name_template: None,
            config: Vec::new(),
            fingerprint: None,
            capture: CaptureOptions::default(),
        }
    }

    /// Sets [`arch`](Self::arch).
    #[must_use]
    pub fn arch(mut self, arch: Arch) -> Self {
        self.arch = arch;
        self
    }

    /// Sets [`branch`](Self::branch).
    #[must_use]
    pub fn branch(mut self, branch: BranchName) -> Self {
        self.branch = branch;
        self
    }

    /// Sets [`parent`](Self::parent).
    #[must_use]
    pub fn parent(mut self, parent: Option<SnapshotRef>) -> Self {
        self.parent = parent;
        self
    }

    /// Sets the name in [`metadata`](Self::metadata).
    #[must_use]
    pub fn name(mut self, name: SnapshotName) -> Self {
        self.metadata.name = Some(name);
        self
    }

    /// Sets [`metadata`](Self::metadata).
    #[must_use]
    pub fn metadata(mut self, metadata: Metadata) -> Self {
        self.metadata = metadata;
        self
    }

    /// Sets [`name_template`](Self::name_template).
    #[must_use]
    pub fn name_template(mut self, template: NameTemplate) -> Self {
        self.name_template = Some(template);
        self
    }

    /// Sets [`config`](Self::config).
    #[must_use]
    pub fn config(mut self, config: Vec<u8>) -> Self {
        self.config = config;
        self
    }

    /// Sets [`fingerprint`](Self::fingerprint).
    #[must_use]
    pub fn fingerprint(mut self, fingerprint: Option<SectionPayload>) -> Self {
        self.fingerprint = fingerprint;
        self
    }

    /// Sets [`capture`](Self::capture).
    #[must_use]
    pub fn capture(mut self, capture: CaptureOptions) -> Self {
        self.capture = capture;
        self
    }
}
