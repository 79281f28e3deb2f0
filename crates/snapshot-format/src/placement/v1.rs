//! Version 1 of the placement's payload. Frozen once released.

use crate::codec::{Decode, Encode};
use crate::envelope::{Features, FileKind};
use crate::error::DecodeError;
use crate::id::{Digest, SnapshotId};
use crate::limits;
use crate::page_map::LeafTable;
use crate::placement::{DataFileRef, FileEntry, PART, Placement, invalid};

#[derive(Encode, Decode, Clone, PartialEq, Debug)]
pub(super) struct PlacementV1 {
    id: [u8; 16],
    generation: u32,
    manifest: [u8; 32],
    files: Vec<FileV1>,
    dependencies: Vec<DataFileV1>,
}

#[derive(Encode, Decode, Clone, PartialEq, Debug)]
struct FileV1 {
    kind: u16,
    index: u32,
    len_bytes: u64,
    digest: [u8; 32],
}

#[derive(Encode, Decode, Clone, PartialEq, Debug)]
struct DataFileV1 {
    snapshot: [u8; 16],
    index: u32,
    map_root: [u8; 32],
}

impl From<&Placement> for PlacementV1 {
    fn from(placement: &Placement) -> Self {
        let files = placement.files.iter();
        let dependencies = placement.dependencies.iter();
        Self {
            id: placement.id.0,
            generation: placement.generation,
            manifest: placement.manifest.0,
            files: files
                .map(|file| FileV1 {
                    kind: file.kind.number(),
                    index: file.index,
                    len_bytes: file.len_bytes,
                    digest: file.digest.0,
                })
                .collect(),
            dependencies: dependencies
                .map(|data| DataFileV1 {
                    snapshot: data.snapshot.0,
                    index: data.index,
                    map_root: data.map_root.0,
                })
                .collect(),
        }
    }
}

impl PlacementV1 {
    /// The placement, without its leaf table.
    pub(super) fn check(self) -> Result<Placement, DecodeError> {
        if self.files.len() > limits::MAX_FILES {
            return Err(DecodeError::Limit {
                part: PART,
                offset: 0,
                what: "files",
                found: self.files.len() as u64,
                limit: limits::MAX_FILES as u64,
            });
        }
        let files = self.files.into_iter().map(|file| {
            let kind = FileKind::from_number(file.kind);
            Ok(FileEntry {
                kind: kind.ok_or_else(|| invalid("a known kind of file", file.kind.into()))?,
                index: file.index,
                len_bytes: file.len_bytes,
                digest: Digest(file.digest),
            })
        });
        let dependencies = self.dependencies.into_iter().map(|data| DataFileRef {
            snapshot: SnapshotId(data.snapshot),
            index: data.index,
            map_root: Digest(data.map_root),
        });
        Ok(Placement {
            id: SnapshotId(self.id),
            generation: self.generation,
            manifest: Digest(self.manifest),
            files: files.collect::<Result<_, _>>()?,
            dependencies: dependencies.collect(),
            flattened: LeafTable::default(),
            features: Features::default(),
        })
    }
}
