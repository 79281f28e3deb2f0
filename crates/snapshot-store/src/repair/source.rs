//! Copies that lie outside of the store.

use snapshot_format::{DataFileRef, Digest, FileKind, MemoryLayout, PageRange, SnapshotId};

/// Pages that are wanted, all under one digest.
#[derive(Clone, Copy, Debug)]
pub struct WantedPages<'w> {
    /// The data file that they belong to.
    pub data: DataFileRef,
    /// The layout of its snapshot's memory.
    pub layout: &'w MemoryLayout,
    /// The pages, as image pages of that layout.
    pub pages: PageRange,
    /// Which of them are stored in that file; the bytes of all others are zero here.
    pub present: &'w [bool],
    /// The digest of all bytes together.
    pub digest: Digest,
}

/// A file that is wanted whole: a manifest, a machine state or a memory map.
#[derive(Clone, Copy, Debug)]
pub struct WantedFile {
    /// Whose file.
    pub snapshot: SnapshotId,
    /// What it is.
    pub kind: FileKind,
    /// Its number among those of its kind.
    pub index: u32,
}

/// Copies of what a store holds that lie outside of it: an archive, say.
pub trait RepairSource {
    /// What a report calls it.
    fn name(&self) -> &str;

    /// The bytes of the pages, if it has them. They are compared with the digest.
    fn pages(&mut self, wanted: &WantedPages<'_>) -> Option<Vec<u8>>;

    /// The bytes of a file as it was written, if it has them. They are compared with what names it.
    fn file(&mut self, wanted: &WantedFile) -> Option<Vec<u8>> {
        let _ = wanted;
        None
    }
}
