//! Version 1 of the manifest's payload. Frozen once released.

use crate::address::GuestAddress;
use crate::codec::{Decode, Encode};
use crate::envelope::{Arch, Features};
use crate::error::DecodeError;
use crate::id::{Digest, SnapshotId, SnapshotRef};
use crate::layout::{MemoryLayout, MemoryRegion};
use crate::manifest::Manifest;
use crate::name::{BranchName, NameError, VmName};
use crate::section::SectionKind;

#[derive(Encode, Decode, Clone, PartialEq, Debug)]
pub(super) struct ManifestV1 {
    id: [u8; 16],
    vm: String,
    seq: u64,
    branch: String,
    parent: Option<ParentV1>,
    created_unix_ms: u64,
    regions: Vec<RegionV1>,
    map_root: Option<[u8; 32]>,
    state: Option<[u8; 32]>,
}

#[derive(Encode, Decode, Clone, PartialEq, Debug)]
struct ParentV1 {
    id: [u8; 16],
    digest: [u8; 32],
}

#[derive(Encode, Decode, Clone, PartialEq, Debug)]
struct RegionV1 {
    start: u64,
    len_bytes: u64,
}

impl From<&Manifest> for ManifestV1 {
    fn from(manifest: &Manifest) -> Self {
        let regions = manifest.layout.regions().iter();
        Self {
            id: manifest.id.0,
            vm: manifest.vm.as_str().to_owned(),
            seq: manifest.seq,
            branch: manifest.branch.as_str().to_owned(),
            parent: manifest.parent.map(|parent| ParentV1 {
                id: parent.id.0,
                digest: parent.digest.0,
            }),
            created_unix_ms: manifest.created_unix_ms,
            regions: regions
                .map(|region| RegionV1 {
                    start: region.start.0,
                    len_bytes: region.len_bytes,
                })
                .collect(),
            map_root: manifest.map_root.map(|digest| digest.0),
            state: manifest.state.map(|digest| digest.0),
        }
    }
}

impl ManifestV1 {
    /// The manifest, without the sections that stand beside this one.
    pub(super) fn check(self, arch: Arch) -> Result<Manifest, DecodeError> {
        let part = SectionKind::MANIFEST.part(0);
        let name = |source: NameError| DecodeError::Name {
            part,
            offset: 0,
            source,
        };
        let regions = self.regions.into_iter();
        let regions = regions.map(|region| MemoryRegion {
            start: GuestAddress(region.start),
            len_bytes: region.len_bytes,
        });
        let layout =
            MemoryLayout::new(regions.collect()).map_err(|source| DecodeError::Layout {
                part,
                offset: 0,
                source,
            })?;
        Ok(Manifest {
            id: SnapshotId(self.id),
            arch,
            vm: VmName::new(self.vm).map_err(name)?,
            seq: self.seq,
            branch: BranchName::new(self.branch).map_err(name)?,
            parent: self.parent.map(|parent| SnapshotRef {
                id: SnapshotId(parent.id),
                digest: Digest(parent.digest),
            }),
            created_unix_ms: self.created_unix_ms,
            layout,
            map_root: self.map_root.map(Digest),
            state: self.state.map(Digest),
            vm_config: Vec::new(),
            fingerprint: None,
            features: Features::default(),
        })
    }
}
