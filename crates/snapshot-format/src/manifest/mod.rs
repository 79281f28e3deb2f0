//! `manifest.vms`: what a snapshot is. It names no file and never changes.

mod v1;

use serde::Serialize;

use crate::codec::Codec;
use crate::envelope::{Arch, Envelope, EnvelopeBuilder, Features, FileKind};
use crate::error::{DecodeError, Part};
use crate::id::{Digest, SnapshotId, SnapshotRef};
use crate::layout::MemoryLayout;
use crate::limits;
use crate::name::{BranchName, VmName};
use crate::section::{SectionKind, SectionPayload, StatePayload};

/// The identity of a snapshot. The digest of its file is what a child names its parent by.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Manifest {
    /// The snapshot.
    pub id: SnapshotId,
    /// The architecture of the guest.
    pub arch: Arch,
    /// The virtual machine that it is of.
    pub vm: VmName,
    /// The place in the history of the virtual machine; given under its lock. Order is by this
    /// number, never by a clock.
    pub seq: u64,
    /// The branch that it was made on.
    pub branch: BranchName,
    /// What it was made from.
    pub parent: Option<SnapshotRef>,
    /// When it was made, in milliseconds since 1970, by a clock that may have been wrong.
    pub created_unix_ms: u64,
    /// Which guest physical addresses are memory.
    pub layout: MemoryLayout,
    /// The digest of the root of its memory map; `None` without memory.
    pub map_root: Option<Digest>,
    /// The digest of `state.vms`; `None` without machine state.
    pub state: Option<Digest>,
    /// The VMM's configuration of the machine, opaque; at most
    /// [`limits::MAX_VM_CONFIG_BYTES`].
    #[serde(serialize_with = "len_only")]
    pub vm_config: Vec<u8>,
    /// What a host must have to run the guest, as a section of its own version.
    #[serde(skip)]
    pub fingerprint: Option<SectionPayload>,
    /// What a build must know to do something to the snapshot; of the file's header.
    #[serde(skip)]
    pub features: Features,
}

impl Manifest {
    /// The bytes of the file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut envelope = EnvelopeBuilder::new(FileKind::Manifest, self.arch, self.id)
            .parent(self.parent.map(|parent| parent.id))
            .features(self.features)
            .section(&SectionPayload::of(0, &v1::ManifestV1::from(self)));
        if !self.vm_config.is_empty() {
            let config = self.vm_config.clone();
            envelope = envelope.section(&SectionPayload::raw(SectionKind::VM_CONFIG, 0, 1, config));
        }
        if let Some(fingerprint) = &self.fingerprint {
            envelope = envelope.section(fingerprint);
        }
        envelope.finish()
    }

    /// The digest of the file: what a [`SnapshotRef`] holds.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&self.encode())
    }

    /// Checks the bytes of a file.
    pub fn parse(bytes: &[u8]) -> Result<Self, DecodeError> {
        let envelope = Envelope::parse_kind(bytes, FileKind::Manifest)?;
        let header = envelope.header();
        let mut offers = envelope.offers()?;
        let wire: v1::ManifestV1 = offers.take(0)?;
        let at = envelope.table().get(SectionKind::MANIFEST, 0)?.offset;
        let mut manifest = wire.check(header.arch).map_err(|error| error.shifted(at))?;
        manifest.fingerprint = offers.take_payload(SectionKind::FINGERPRINT, 0);
        let config = offers.take_payload(SectionKind::VM_CONFIG, 0);
        manifest.vm_config = config.map_or_else(|| Ok(Vec::new()), check_config)?;
        offers.finish()?;
        manifest.features = header.features;
        let parent = manifest.parent.map(|parent| parent.id);
        header
            .check_lineage(SectionKind::MANIFEST.part(0), manifest.id, parent)
            .map_err(|error| error.shifted(at))?;
        Ok(manifest)
    }
}

impl StatePayload for v1::ManifestV1 {
    const KIND: SectionKind = SectionKind::MANIFEST;
    const VERSION: u16 = 1;

    fn encode(&self) -> Vec<u8> {
        crate::codec::encode(self)
    }

    fn decode(version: u16, bytes: &[u8]) -> Result<Self, DecodeError> {
        let part = SectionKind::MANIFEST.part(0);
        crate::codec::decode(bytes, limits::MAX_MANIFEST_BYTES, part, version)
    }
}

fn check_config(section: SectionPayload) -> Result<Vec<u8>, DecodeError> {
    let part = Part::Section {
        kind: section.kind,
        instance: section.instance,
    };
    if section.version != 1 || section.codec != Codec::Raw {
        return Err(DecodeError::Version {
            part,
            offset: 0,
            found: section.version,
            reads: 1,
        });
    }
    if section.bytes.len() > limits::MAX_VM_CONFIG_BYTES {
        return Err(DecodeError::Limit {
            part,
            offset: 0,
            what: "bytes",
            found: section.bytes.len() as u64,
            limit: limits::MAX_VM_CONFIG_BYTES as u64,
        });
    }
    Ok(section.bytes)
}

fn len_only<S: serde::Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(bytes.len() as u64)
}
