//! `place.<n>.vms`: where the bytes of a snapshot lie. The highest valid generation counts.

mod v1;

use serde::{Deserialize, Serialize};

use crate::envelope::{Arch, BASE_READER_MINOR, Envelope, EnvelopeBuilder, Features, FileKind};
use crate::error::{DecodeError, Part};
use crate::id::{Digest, SnapshotId};
use crate::limits;
use crate::page_map::LeafTable;
use crate::section::{SectionKind, SectionPayload, StatePayload};
use crate::working_set::WORKING_SET_READER_MINOR;

/// Every file of a snapshot with its length and digest, every data file that it needs, and the
/// table of its flattened map.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Placement {
    /// The snapshot.
    pub id: SnapshotId,
    /// Counts from 1; a new placement is a new file.
    pub generation: u32,
    /// BLAKE3 of the bytes of `manifest.vms`.
    pub manifest: Digest,
    /// The files, sorted by kind, then index.
    pub files: Vec<FileEntry>,
    /// Every data file that the memory of the snapshot may be in, in the order in which they were
    /// made; the owner numbers of leaves count from 1 in it.
    pub dependencies: Vec<DataFileRef>,
    /// The leaves of the flattened map.
    #[serde(skip)]
    pub flattened: LeafTable,
    /// What a build must know to do something to the snapshot; of the file's header. A placement
    /// that follows this one asks for the same.
    #[serde(skip)]
    pub features: Features,
}

/// A file of a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FileEntry {
    /// What it holds; gives its name together with the index.
    pub kind: FileKind,
    /// Which of that kind.
    pub index: u32,
    /// Its length in bytes.
    pub len_bytes: u64,
    /// Of memory data, the digest of its map's root; of a memory map, BLAKE3 of its header and
    /// section table ([`envelope_digest`](crate::envelope::envelope_digest)), and of a working set
    /// too; of every other file, BLAKE3 of its bytes.
    pub digest: Digest,
}

/// A data file, of this snapshot or of another.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct DataFileRef {
    /// The snapshot that made it.
    pub snapshot: SnapshotId,
    /// Which of that snapshot's.
    pub index: u32,
    /// The digest of its map's root.
    pub map_root: Digest,
}

impl FileEntry {
    /// The name of the file in the directory of its snapshot.
    #[must_use]
    pub fn file_name(&self) -> String {
        self.kind.file_name(self.index)
    }
}

impl Placement {
    /// The entry of a file, if the placement names it.
    #[must_use]
    pub fn file(&self, kind: FileKind, index: u32) -> Option<&FileEntry> {
        let mut files = self.files.iter();
        files.find(|file| file.kind == kind && file.index == index)
    }

    /// The data file that holds the snapshot's own pages; `None` without memory.
    ///
    /// Checked against the manifest, which names the root of the first map, index 0, and never
    /// changes: the data file is that one, or one that was laid out anew, beside which the first
    /// one is still among the files.
    pub fn own_data(&self, map_root: Option<Digest>) -> Result<Option<&DataFileRef>, DecodeError> {
        let is_own = |data: &&DataFileRef| data.snapshot == self.id;
        let mut owns = self.dependencies.iter().filter(is_own);
        let (own, further) = (owns.next(), owns.next());
        let Some(map_root) = map_root else {
            return match own {
                None => Ok(None),
                Some(_) => Err(invalid("memory is named where the manifest names it", 0)),
            };
        };
        let own = own.filter(|own| further.is_none() && self.dependencies.last() == Some(own));
        let own = own.ok_or(invalid("the own data file is named once, and last", 0))?;
        let first = self.file(FileKind::MemoryData, 0);
        let has_map = self.file(FileKind::MemoryMap, 0).is_some();
        if !has_map || first.is_none_or(|first| first.digest != map_root) {
            return Err(invalid(
                "the memory that the manifest names is among the files",
                0,
            ));
        }
        if own.index != 0 && self.generation == 1 {
            return Err(invalid(
                "the first placement names memory of index 0",
                own.index.into(),
            ));
        }
        Ok(Some(own))
    }

    /// The name of this placement's own file.
    #[must_use]
    pub fn file_name(&self) -> String {
        FileKind::Placement.file_name(self.generation)
    }

    /// The bytes of the file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let flattened = self.flattened.encode();
        EnvelopeBuilder::new(FileKind::Placement, Arch::None, self.id)
            .reader_minor(self.reader_minor())
            .features(self.features)
            .section(&SectionPayload::of(0, &v1::PlacementV1::from(self)))
            .section(&SectionPayload::raw(
                SectionKind::FLATTENED_MAP,
                0,
                1,
                flattened,
            ))
            .finish()
    }

    /// The lowest minor version that knows the digest of every file that is named.
    fn reader_minor(&self) -> u16 {
        let mut files = self.files.iter();
        if files.any(|file| file.kind == FileKind::WorkingSet) {
            WORKING_SET_READER_MINOR
        } else {
            BASE_READER_MINOR
        }
    }

    /// Checks the bytes of a file.
    pub fn parse(bytes: &[u8]) -> Result<Self, DecodeError> {
        let envelope = Envelope::parse_kind(bytes, FileKind::Placement)?;
        let mut offers = envelope.offers()?;
        let wire: v1::PlacementV1 = offers.take(0)?;
        let at = envelope.table().get(SectionKind::PLACEMENT, 0)?.offset;
        let table = envelope.table().get(SectionKind::FLATTENED_MAP, 0)?;
        let flattened = offers.take_payload(SectionKind::FLATTENED_MAP, 0);
        let flattened = match flattened {
            Some(section) if section.version == 1 => {
                LeafTable::parse(&section.bytes).map_err(|error| error.shifted(table.offset))?
            }
            _ => {
                return Err(DecodeError::Version {
                    part: table.part(),
                    offset: table.offset,
                    found: table.version,
                    reads: 1,
                });
            }
        };
        offers.finish()?;
        let mut placement = wire.check().map_err(|error| error.shifted(at))?;
        placement.flattened = flattened;
        placement.features = envelope.header().features;
        placement
            .check(envelope.header().id)
            .map_err(|error| error.shifted(at))?;
        Ok(placement)
    }

    /// The rules between fields.
    fn check(&self, id: SnapshotId) -> Result<(), DecodeError> {
        if self.id != id {
            return Err(DecodeError::Mismatch {
                part: PART,
                offset: 0,
                what: "the id",
                expected: id.to_string(),
                found: self.id.to_string(),
            });
        }
        if self.generation == 0 {
            return Err(invalid("generations count from 1", 0));
        }
        let keys = self
            .files
            .iter()
            .map(|file| (file.kind.number(), file.index));
        if !keys.is_sorted_by(|a, b| a < b) {
            return Err(invalid("files are sorted by kind and index, each once", 0));
        }
        match self.file(FileKind::Manifest, 0) {
            Some(file) if file.digest == self.manifest => {}
            _ => {
                return Err(invalid(
                    "the manifest is among the files, with its digest",
                    0,
                ));
            }
        }
        self.check_memory()
    }

    fn check_memory(&self) -> Result<(), DecodeError> {
        let count = self.dependencies.len();
        if count > limits::MAX_DATA_FILES {
            return Err(DecodeError::Limit {
                part: PART,
                offset: 0,
                what: "data files",
                found: count as u64,
                limit: limits::MAX_DATA_FILES as u64,
            });
        }
        let mut refs: Vec<_> = self
            .dependencies
            .iter()
            .map(|d| (d.snapshot, d.index))
            .collect();
        refs.sort_unstable();
        if refs.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(invalid("each data file is named once", 0));
        }
        let owns = self
            .dependencies
            .iter()
            .filter(|data| data.snapshot == self.id);
        for data in owns {
            let file = self.file(FileKind::MemoryData, data.index);
            let map = self.file(FileKind::MemoryMap, data.index);
            if map.is_none() || file.is_none_or(|file| file.digest != data.map_root) {
                return Err(invalid(
                    "own data files and their maps are among the files",
                    0,
                ));
            }
        }
        let mut leaves = self.flattened.refs().iter();
        match leaves.find(|leaf| usize::from(leaf.file) > count) {
            None => Ok(()),
            Some(leaf) => Err(invalid(
                "a leaf is of a data file that is named",
                leaf.file.into(),
            )),
        }
    }
}

impl StatePayload for v1::PlacementV1 {
    const KIND: SectionKind = SectionKind::PLACEMENT;
    const VERSION: u16 = 1;

    fn encode(&self) -> Vec<u8> {
        crate::codec::encode(self)
    }

    fn decode(version: u16, bytes: &[u8]) -> Result<Self, DecodeError> {
        crate::codec::decode(bytes, limits::MAX_PLACEMENT_BYTES, PART, version)
    }
}

const PART: Part = SectionKind::PLACEMENT.part(0);

const fn invalid(rule: &'static str, found: u64) -> DecodeError {
    DecodeError::Invalid {
        part: PART,
        offset: 0,
        rule,
        found,
    }
}
