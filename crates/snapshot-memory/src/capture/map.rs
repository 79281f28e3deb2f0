//! Writing a `memory.map`, leaf by leaf.

use snapshot_format::envelope::{HEADER_BYTES, envelope_digest};
use snapshot_format::page_map::{MAP_ROOT_VERSION, MERGED_READER_MINOR};
use snapshot_format::{
    Arch, Codec, Digest, Features, FileKind, Header, LeafRef, LeafTable, MapRoot, SectionEntry,
    SectionKind, SectionTable,
};

use crate::error::{FileError, SinkError};
use crate::staged::StagedFile;

/// The version of the section of leaves.
const LEAVES_VERSION: u16 = 1;

/// A memory map that grows at its end. Only the references to leaves are kept in memory.
#[derive(Debug)]
pub(crate) struct MapWriter<'a> {
    file: &'a mut StagedFile,
    number: u16,
    offset: u64,
    leaves: blake3::Hasher,
    features: Features,
    is_merged: bool,
}

/// A memory map that is written.
#[derive(Debug)]
pub(crate) struct WrittenMap {
    pub(crate) root: Digest,
    pub(crate) len_bytes: u64,
    /// What a placement names the map by.
    pub(crate) frame: Digest,
}

impl<'a> MapWriter<'a> {
    pub(crate) fn new(file: &'a mut StagedFile, number: u16) -> Self {
        Self {
            file,
            number,
            offset: HEADER_BYTES as u64,
            leaves: blake3::Hasher::new(),
            features: Features::default(),
            is_merged: false,
        }
    }

    /// Asks readers of the map to know these.
    pub(crate) fn features(mut self, features: Features) -> Self {
        self.features = features;
        self
    }

    /// Asks for readers that know merged files, if it is the map of one.
    pub(crate) fn merged(mut self, is_merged: bool) -> Self {
        self.is_merged = is_merged;
        self
    }

    /// Appends leaf `number`.
    pub(crate) fn leaf(&mut self, number: u32, bytes: &[u8]) -> Result<LeafRef, FileError> {
        let leaf = LeafRef {
            number,
            file: self.number,
            offset: self.offset,
            len: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
            digest: Digest::of(bytes),
        };
        self.leaves.update(bytes);
        self.append(bytes)?;
        Ok(leaf)
    }

    /// Writes what stands around the leaves: root, section table, header.
    pub(crate) fn finish(mut self, root: &MapRoot) -> Result<WrittenMap, SinkError> {
        let leaves_at = HEADER_BYTES as u64;
        let leaves_digest = Digest(*self.leaves.finalize().as_bytes());
        let entry = |kind, version| SectionEntry::new(kind, 0, version, Codec::Raw);
        let leaves = entry(SectionKind::MAP_LEAVES, LEAVES_VERSION).located(
            leaves_at,
            self.offset - leaves_at,
            leaves_digest,
        );
        let root_bytes = root.encode();
        let root_digest = Digest::of(&root_bytes);
        let root_entry = entry(SectionKind::MAP_ROOT, MAP_ROOT_VERSION).located(
            self.offset,
            root_bytes.len() as u64,
            root_digest,
        );
        self.append(&root_bytes)?;
        let parent = root.parent.map(|parent| parent.id);
        let mut header = Header::new(FileKind::MemoryMap, Arch::None, root.id, parent);
        header.features = self.features;
        header.reader_minor = root.data_layout.reader_minor();
        if self.is_merged {
            header.reader_minor = header.reader_minor.max(MERGED_READER_MINOR);
        }
        let (header, table) = SectionTable::new(vec![leaves, root_entry]).close(header);
        self.file.write_all_at(header.table_offset, &table)?;
        let header_bytes = header.encode();
        self.file.write_all_at(0, &header_bytes)?;
        Ok(WrittenMap {
            root: root_digest,
            len_bytes: header.table_offset + table.len() as u64,
            frame: envelope_digest(&header_bytes, &table),
        })
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        self.file.write_all_at(self.offset, bytes)?;
        // Leaves and roots are whole words, so that nothing is to be padded.
        self.offset += bytes.len() as u64;
        Ok(())
    }
}

/// The table of leaves that were written in ascending order.
pub(crate) fn table(refs: Vec<LeafRef>) -> LeafTable {
    let sorted = LeafTable::new(refs);
    debug_assert!(sorted.is_some(), "leaves are written in order");
    sorted.unwrap_or_default()
}
