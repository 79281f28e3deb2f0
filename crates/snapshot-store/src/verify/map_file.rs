//! Reading a `memory.map` to check it.

use snapshot_format::envelope::{HEADER_BYTES, SECTION_ENTRY_BYTES, envelope_digest};
use snapshot_format::{
    Digest, FileEntry, Header, IndexLeaf, LeafRef, MapRoot, OwnerLeaf, SectionEntry, SectionTable,
    limits,
};
use snapshot_memory::backend::{Backend, ReadFile, RelPath};

use crate::error::StoreError;
use crate::verify::report::Findings;

/// Bytes that are read at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// An open map whose header, section table and root are right.
#[derive(Debug)]
pub(super) struct MapFile {
    pub(super) path: RelPath,
    pub(super) root: MapRoot,
    file: Box<dyn ReadFile>,
    header: [u8; HEADER_BYTES],
    table_bytes: Vec<u8>,
    table: SectionTable,
    len: u64,
}

impl MapFile {
    /// Opens a map whose root must have this digest.
    pub(super) fn open(
        backend: &dyn Backend,
        path: &RelPath,
        root_digest: Digest,
    ) -> Result<Self, StoreError> {
        let failed = |error| StoreError::io("read", path, error);
        let decode = |error| StoreError::decode(path, error);
        let file = backend.open(path).map_err(failed)?;
        let len = file.len().map_err(failed)?;
        let mut header = [0; HEADER_BYTES];
        file.read_exact_at(0, &mut header).map_err(failed)?;
        let parsed = Header::parse(&header, len).map_err(decode)?;
        let table_bytes = read(
            file.as_ref(),
            path,
            parsed.table_offset,
            u64::from(parsed.table_len),
            (limits::MAX_SECTIONS * SECTION_ENTRY_BYTES) as u64,
        )?;
        let table = SectionTable::parse(&table_bytes, &parsed).map_err(decode)?;
        let entry = MapRoot::entry(&parsed, &table).map_err(decode)?;
        let root_bytes = read(
            file.as_ref(),
            path,
            entry.offset,
            entry.stored_len,
            limits::MAX_MAP_ROOT_BYTES,
        )?;
        let root = MapRoot::parse(&parsed, &table, &root_bytes).map_err(decode)?;
        let found = Digest::of(&root_bytes);
        if found != root_digest {
            let problem = format!("its root has digest {found}, and {root_digest} is expected");
            return Err(StoreError::damaged(path, problem));
        }
        Ok(Self {
            path: path.clone(),
            root,
            file,
            header,
            table_bytes,
            table,
            len,
        })
    }

    /// Checks length and digest by the placement's `entry`, the digest of every section, and that
    /// what lies between them is zero.
    pub(super) fn check_frame(
        &self,
        entry: &FileEntry,
        findings: &mut Findings<'_>,
    ) -> Result<(), StoreError> {
        if self.len != entry.len_bytes {
            let (found, expected) = (self.len, entry.len_bytes);
            let problem = format!("it has {found} bytes, and its placement says {expected}");
            return Err(StoreError::damaged(&self.path, problem));
        }
        let found = envelope_digest(&self.header, &self.table_bytes);
        if found != entry.digest {
            let expected = entry.digest;
            let problem = format!("its digest is {found}, and its placement says {expected}");
            return Err(StoreError::damaged(&self.path, problem));
        }
        for section in self.table.entries() {
            self.check_section(section, findings)?;
        }
        Ok(())
    }

    /// The bytes of a leaf, not yet checked.
    pub(super) fn read_leaf(&self, leaf: &LeafRef) -> Result<Vec<u8>, StoreError> {
        let len = u64::from(leaf.len);
        read(self.file.as_ref(), &self.path, leaf.offset, len, u64::MAX)
    }

    pub(super) fn index_leaf(&self, leaf: &LeafRef) -> Result<IndexLeaf, StoreError> {
        let bytes = self.read_leaf(leaf)?;
        let parsed = self.root.index_leaf(leaf, &bytes);
        parsed.map_err(|error| StoreError::decode(&self.path, error))
    }

    pub(super) fn owner_leaf(&self, leaf: &LeafRef) -> Result<OwnerLeaf, StoreError> {
        let bytes = self.read_leaf(leaf)?;
        let parsed = self.root.owner_leaf(leaf, &bytes);
        parsed.map_err(|error| StoreError::decode(&self.path, error))
    }

    fn check_section(
        &self,
        section: &SectionEntry,
        findings: &mut Findings<'_>,
    ) -> Result<(), StoreError> {
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut at = section.offset;
        while at < section.end() {
            let left = usize::try_from(section.end() - at).unwrap_or(usize::MAX);
            let chunk = buffer.get_mut(..left.min(CHUNK_BYTES)).unwrap_or_default();
            self.file
                .read_exact_at(at, chunk)
                .map_err(|error| StoreError::io("read", &self.path, error))?;
            hasher.update(chunk);
            at += chunk.len() as u64;
            findings.checked(chunk.len() as u64)?;
        }
        let found = Digest(*hasher.finalize().as_bytes());
        if found != section.digest {
            let part = section.part();
            let problem = format!(
                "{part} at offset {:#x} has digest {found}, and {} is expected",
                section.offset, section.digest
            );
            return Err(StoreError::damaged(&self.path, problem));
        }
        let padding = section.end().next_multiple_of(8) - section.end();
        let between = read(self.file.as_ref(), &self.path, section.end(), padding, 8)?;
        if between.iter().any(|&byte| byte != 0) {
            let problem = format!("bytes at offset {:#x} are not zero", section.end());
            return Err(StoreError::damaged(&self.path, problem));
        }
        Ok(())
    }
}

/// Reads `len` bytes at `offset`.
fn read(
    file: &dyn ReadFile,
    path: &RelPath,
    offset: u64,
    len: u64,
    max_bytes: u64,
) -> Result<Vec<u8>, StoreError> {
    let len = usize::try_from(len)
        .ok()
        .filter(|_| len <= max_bytes)
        .ok_or_else(|| {
            let problem = format!("a part of it has {len} bytes, at most {max_bytes} are allowed");
            StoreError::damaged(path, problem)
        })?;
    let mut bytes = vec![0; len];
    file.read_exact_at(offset, &mut bytes)
        .map_err(|error| StoreError::io("read", path, error))?;
    Ok(bytes)
}
