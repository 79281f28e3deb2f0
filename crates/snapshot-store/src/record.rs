//! What is known of one snapshot without reading its memory.

use serde::Serialize;
use snapshot_format::{
    BranchName, Digest, FileKind, Manifest, MemoryLayout, SnapshotId, SnapshotName, SnapshotRef,
    VmName, limits,
};
use snapshot_memory::backend::Backend;

use crate::checked_json;
use crate::directory::{self, Location};
use crate::error::{ErrorKind, StoreError, with_causes};
use crate::file;
use crate::metadata::Metadata;

/// What a store lists of a snapshot.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct SnapshotRecord {
    /// Its identity.
    pub id: SnapshotId,
    /// BLAKE3 of its `manifest.vms`: what a child names it by.
    pub digest: Digest,
    /// The virtual machine.
    pub vm: VmName,
    /// Its place in the order of that machine's snapshots, from 1.
    pub seq: u64,
    /// The branch that it was taken on.
    pub branch: BranchName,
    /// What it was taken relative to, or after.
    pub parent: Option<SnapshotRef>,
    /// When it was made, in milliseconds since 1970: for people, nothing is decided by it.
    pub created_unix_ms: u64,
    /// The guest's memory.
    pub layout: MemoryLayout,
    /// Whether it has guest memory.
    pub has_memory: bool,
    /// Whether it has machine state.
    pub has_state: bool,
    /// Whether it is in use or deleted.
    pub location: Location,
    /// Name, labels, tags; as good as empty, and protected, where they cannot be read.
    #[serde(flatten)]
    pub metadata: Metadata,
    /// Why `metadata` could not be read.
    pub metadata_problem: Option<String>,
}

/// A snapshot whose identity cannot be read.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct DamagedSnapshot {
    /// The name of its directory.
    pub id: SnapshotId,
    /// Where the directory is.
    pub location: Location,
    /// Which kind of problem.
    #[serde(skip)]
    pub kind: ErrorKind,
    /// What is wrong.
    pub problem: String,
}

/// The snapshots of a store.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Listing {
    /// Those that can be read, by machine and sequence number.
    pub snapshots: Vec<SnapshotRecord>,
    /// Those that cannot. They hide nothing: all others are in `snapshots`.
    pub damaged: Vec<DamagedSnapshot>,
}

impl SnapshotRecord {
    /// What a diff names this snapshot by.
    #[must_use]
    pub fn reference(&self) -> SnapshotRef {
        SnapshotRef {
            id: self.id,
            digest: self.digest,
        }
    }

    /// Whether this is its name, without regard to case.
    #[must_use]
    pub fn is_named(&self, name: &SnapshotName) -> bool {
        let own = self.metadata.name.as_ref();
        own.is_some_and(|own| own.key() == name.key())
    }

    /// Reads manifest and metadata of the snapshot at `location`.
    pub(crate) fn read(
        backend: &dyn Backend,
        location: Location,
        id: SnapshotId,
    ) -> Result<Self, StoreError> {
        let (manifest, digest) = read_manifest(backend, location, id)?;
        let (metadata, metadata_problem) = match read_metadata(backend, location, id) {
            Ok(metadata) => (metadata, None),
            Err(error) => (Metadata::unreadable(), Some(with_causes(&error))),
        };
        Ok(Self {
            id,
            digest,
            vm: manifest.vm,
            seq: manifest.seq,
            branch: manifest.branch,
            parent: manifest.parent,
            created_unix_ms: manifest.created_unix_ms,
            layout: manifest.layout,
            has_memory: manifest.map_root.is_some(),
            has_state: manifest.state.is_some(),
            location,
            metadata,
            metadata_problem,
        })
    }
}

impl DamagedSnapshot {
    pub(crate) fn new(id: SnapshotId, location: Location, error: &StoreError) -> Self {
        Self {
            id,
            location,
            kind: error.kind(),
            problem: with_causes(error),
        }
    }
}

/// Reads `manifest.vms`, and checks that it is the manifest of this snapshot.
pub(crate) fn read_manifest(
    backend: &dyn Backend,
    location: Location,
    id: SnapshotId,
) -> Result<(Manifest, Digest), StoreError> {
    let path = directory::below(&location.snapshot(id), &FileKind::Manifest.file_name(0));
    let bytes = file::read(backend, &path, limits::MAX_ENVELOPE_BYTES)?;
    let manifest = Manifest::parse(&bytes).map_err(|error| StoreError::decode(&path, error))?;
    if manifest.id != id {
        return Err(StoreError::damaged(
            &path,
            format!("it is the manifest of snapshot {}", manifest.id),
        ));
    }
    Ok((manifest, Digest::of(&bytes)))
}

/// Reads `snapshot.json`.
pub(crate) fn read_metadata(
    backend: &dyn Backend,
    location: Location,
    id: SnapshotId,
) -> Result<Metadata, StoreError> {
    let path = directory::below(&location.snapshot(id), directory::METADATA_FILE);
    let bytes = file::read(backend, &path, checked_json::MAX_BYTES)?;
    Metadata::decode(id, &bytes).map_err(|fault| StoreError::fault(&path, fault))
}
