//! Making a small file in memory.

use crate::envelope::{Arch, Features, FileKind, HEADER_BYTES, Header, SectionEntry, SectionTable};
use crate::id::{Digest, SnapshotId};
use crate::section::SectionPayload;

/// Makes the bytes of an envelope that is small enough for memory.
#[derive(Clone, Debug)]
pub struct EnvelopeBuilder {
    header: Header,
    entries: Vec<SectionEntry>,
    bytes: Vec<u8>,
}

impl EnvelopeBuilder {
    /// An envelope without a section.
    #[must_use]
    pub fn new(kind: FileKind, arch: Arch, id: SnapshotId) -> Self {
        Self {
            header: Header::new(kind, arch, id, None),
            entries: Vec::new(),
            bytes: vec![0; HEADER_BYTES],
        }
    }

    /// Names the parent of the snapshot.
    #[must_use]
    pub const fn parent(mut self, parent: Option<SnapshotId>) -> Self {
        self.header.parent = parent;
        self
    }

    /// Sets what a reader must know.
    #[must_use]
    pub const fn features(mut self, features: Features) -> Self {
        self.header.features = features;
        self
    }

    /// Sets the lowest minor version that may read the file.
    #[must_use]
    pub const fn reader_minor(mut self, minor: u16) -> Self {
        self.header.reader_minor = minor;
        self
    }

    /// Adds a section.
    #[must_use]
    pub fn section(mut self, section: &SectionPayload) -> Self {
        let offset = self.bytes.len() as u64;
        let mut entry = SectionEntry::new(
            section.kind,
            section.instance,
            section.version,
            section.codec,
        )
        .located(
            offset,
            section.bytes.len() as u64,
            Digest::of(&section.bytes),
        );
        entry.critical = section.critical;
        self.entries.push(entry);
        self.bytes.extend_from_slice(&section.bytes);
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        self
    }

    /// The bytes of the file.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        let Self {
            header,
            entries,
            mut bytes,
        } = self;
        let (header, table) = SectionTable::new(entries).close(header);
        bytes[..HEADER_BYTES].copy_from_slice(&header.encode());
        bytes.extend(table);
        bytes
    }
}
