//! What an archived snapshot is made of.

use snapshot_format::{
    Digest, FileKind, GuestAddress, LEAF_PAGES, MemoryLayout, MemoryRegion, SnapshotId, limits,
};

use crate::error::FormatError;
use crate::fields::Fields;
use crate::frame::HEAD_BYTES;
use crate::id::ChunkId;
use crate::limits::{CHUNK_BYTES, MAX_RECIPE_FILE_BYTES, MAX_RECIPE_FILES};

/// A file of an archived snapshot: what it is, in the words of the store.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ArchivedKind {
    /// A file of the snapshot's format.
    Snapshot(FileKind),
    /// `snapshot.json`: name, labels, tags.
    Metadata,
}

/// A file of an archived snapshot, by the chunks of its bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct RecipeFile {
    pub(crate) kind: ArchivedKind,
    pub(crate) index: u16,
    pub(crate) len_bytes: u64,
    pub(crate) digest: Digest,
    pub(crate) chunks: Vec<ChunkId>,
}

/// A snapshot by the chunks that it is made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Recipe {
    pub(crate) snapshot: SnapshotId,
    /// The digest of `manifest.vms`.
    pub(crate) manifest: Digest,
    /// `None` without memory.
    pub(crate) layout: Option<MemoryLayout>,
    /// Leaves that are not all zero, by their numbers, ascending.
    pub(crate) leaves: Vec<(u32, ChunkId)>,
    /// Ascending by kind and index.
    pub(crate) files: Vec<RecipeFile>,
}

impl ArchivedKind {
    /// `manifest.vms`, which every archive has.
    pub const MANIFEST: Self = Self::Snapshot(FileKind::Manifest);

    const fn number(self) -> u16 {
        match self {
            Self::Snapshot(kind) => kind.number(),
            Self::Metadata => METADATA,
        }
    }

    fn from_number(number: u16) -> Option<Self> {
        if number == METADATA {
            return Some(Self::Metadata);
        }
        FileKind::from_number(number).map(Self::Snapshot)
    }

    /// What files are sorted by.
    const fn order(self, index: u16) -> (u16, u16) {
        (self.number(), index)
    }
}

impl Recipe {
    /// The body of the object.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let regions = self.layout.as_ref().map_or(&[][..], MemoryLayout::regions);
        let pages = self.layout.as_ref().map_or(0, MemoryLayout::page_count);
        let count = |len: usize| u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes();
        let mut body = Vec::new();
        body.extend(self.snapshot.0);
        body.extend(self.manifest.0);
        body.extend(pages.to_le_bytes());
        body.extend(count(regions.len()));
        body.extend(count(self.leaves.len()));
        body.extend(count(self.files.len()));
        body.extend([0; 4]);
        for region in regions {
            body.extend(region.start.0.to_le_bytes());
            body.extend(region.len_bytes.to_le_bytes());
        }
        for (number, id) in &self.leaves {
            body.extend(number.to_le_bytes());
            body.extend(id.0);
        }
        for file in &self.files {
            body.extend(file.kind.number().to_le_bytes());
            body.extend(file.index.to_le_bytes());
            body.extend(count(file.chunks.len()));
            body.extend(file.len_bytes.to_le_bytes());
            body.extend(file.digest.0);
        }
        for id in self.files.iter().flat_map(|file| &file.chunks) {
            body.extend(id.0);
        }
        body
    }

    /// Checks the body of an object whose frame was found right.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, FormatError> {
        let mut fields = Fields::new(body, HEAD_BYTES as u64);
        let snapshot = SnapshotId(fields.array()?);
        let manifest = Digest(fields.array()?);
        let at = fields.offset();
        let pages = fields.u64()?;
        let region_count = fields.count(limits::MAX_REGIONS, 16)?;
        let leaf_count = fields.count(limits::MAX_LEAVES, 36)?;
        let file_count = fields.count(MAX_RECIPE_FILES, 48)?;
        fields.reserved(4)?;
        let layout = parse_layout(&mut fields, region_count)?;
        let counted = layout.as_ref().map_or(0, MemoryLayout::page_count);
        if counted != pages {
            let rule = "the pages are those of the regions";
            return Err(FormatError::invalid(at, rule, pages));
        }
        let leaves = parse_leaves(&mut fields, leaf_count, layout.as_ref())?;
        let files = parse_files(&mut fields, file_count)?;
        fields.finish()?;
        let own = files
            .iter()
            .find(|file| file.kind == ArchivedKind::MANIFEST);
        if own.is_none_or(|file| file.digest != manifest) {
            let rule = "there is a manifest, with the digest of the recipe";
            return Err(FormatError::invalid(HEAD_BYTES as u64 + 16, rule, 0));
        }
        Ok(Self {
            snapshot,
            manifest,
            layout,
            leaves,
            files,
        })
    }

    /// The chunks that it names itself: leaves, then files.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = ChunkId> + '_ {
        let leaves = self.leaves.iter().map(|(_, id)| *id);
        leaves.chain(
            self.files
                .iter()
                .flat_map(|file| file.chunks.iter().copied()),
        )
    }

    /// A file of it.
    pub(crate) fn file(&self, kind: ArchivedKind, index: u16) -> Option<&RecipeFile> {
        let mut files = self.files.iter();
        files.find(|file| file.kind == kind && file.index == index)
    }
}

fn parse_layout(
    fields: &mut Fields<'_>,
    count: usize,
) -> Result<Option<MemoryLayout>, FormatError> {
    let at = fields.offset();
    let mut regions = Vec::with_capacity(count);
    for _ in 0..count {
        regions.push(MemoryRegion {
            start: GuestAddress(fields.u64()?),
            len_bytes: fields.u64()?,
        });
    }
    if regions.is_empty() {
        return Ok(None);
    }
    let layout = MemoryLayout::new(regions);
    let rule = "regions are aligned to pages, sorted and apart";
    layout
        .map(Some)
        .map_err(|_| FormatError::invalid(at, rule, 0))
}

fn parse_leaves(
    fields: &mut Fields<'_>,
    count: usize,
    layout: Option<&MemoryLayout>,
) -> Result<Vec<(u32, ChunkId)>, FormatError> {
    let mut leaves: Vec<(u32, ChunkId)> = Vec::with_capacity(count);
    for _ in 0..count {
        let at = fields.offset();
        let number = fields.u32()?;
        if leaves.last().is_some_and(|(last, _)| *last >= number) {
            let rule = "leaves are in ascending order";
            return Err(FormatError::invalid(at, rule, u64::from(number)));
        }
        if !layout.is_some_and(|layout| holds_memory(layout, number)) {
            let rule = "a leaf holds memory";
            return Err(FormatError::invalid(at, rule, u64::from(number)));
        }
        leaves.push((number, ChunkId(fields.array()?)));
    }
    Ok(leaves)
}

/// Whether any region has pages in a leaf.
fn holds_memory(layout: &MemoryLayout, leaf: u32) -> bool {
    let start = u64::from(leaf) * LEAF_PAGES as u64;
    let end = start + LEAF_PAGES as u64;
    layout.regions().iter().any(|region| {
        let first = region.start.page().0;
        first < end && first + region.len_bytes / PAGE_BYTES > start
    })
}

fn parse_files(fields: &mut Fields<'_>, count: usize) -> Result<Vec<RecipeFile>, FormatError> {
    let mut files: Vec<(RecipeFile, usize)> = Vec::with_capacity(count);
    for _ in 0..count {
        let at = fields.offset();
        let number = fields.u16()?;
        let index = fields.u16()?;
        let chunk_count = fields.u32()? as usize;
        let len_bytes = fields.u64()?;
        let digest = Digest(fields.array()?);
        let Some(kind) = ArchivedKind::from_number(number) else {
            let rule = "the kind of a file is known";
            return Err(FormatError::invalid(at, rule, u64::from(number)));
        };
        let last = files.last().map(|(file, _)| file.kind.order(file.index));
        if last.is_some_and(|last| last >= kind.order(index)) {
            let rule = "files are in ascending order of kind and index";
            return Err(FormatError::invalid(at, rule, u64::from(number)));
        }
        let whole = len_bytes.div_ceil(CHUNK_BYTES as u64);
        if len_bytes > MAX_RECIPE_FILE_BYTES || whole != chunk_count as u64 {
            let rule = "a file has a chunk for each 64 KiB, and at most 1 GiB";
            return Err(FormatError::invalid(at + 4, rule, len_bytes));
        }
        let file = RecipeFile {
            kind,
            index,
            len_bytes,
            digest,
            chunks: Vec::new(),
        };
        files.push((file, chunk_count));
    }
    let mut complete = Vec::with_capacity(files.len());
    for (mut file, chunk_count) in files {
        // As many as are there, whatever is declared.
        let ids = fields.take(chunk_count.saturating_mul(32))?;
        let (ids, _) = ids.as_chunks::<32>();
        file.chunks = ids.iter().map(|id| ChunkId(*id)).collect();
        complete.push(file);
    }
    Ok(complete)
}

const METADATA: u16 = 255;
const PAGE_BYTES: u64 = 4096;

#[cfg(test)]
mod tests;
