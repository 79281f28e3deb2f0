//! The memory of an archived snapshot, read straight from the vault.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use snapshot_format::{GuestPage, LEAF_PAGES, MemoryLayout, PageRange};
use snapshot_memory::{PageRun, PageSource, SourceError};

use crate::chunk::zero_chunk;
use crate::error::VaultError;
use crate::fetch::Chunks;
use crate::id::ChunkId;
use crate::leaf::RecipeLeaf;
use crate::limits::{CHUNK_BYTES, CHUNK_PAGES, LEAF_CHUNKS};
use crate::objects::ObjectKind;
use crate::recipe::Recipe;

/// The memory of an archived snapshot. Leaves and chunks are got when pages of them are wanted, and
/// every chunk is checked before a byte of it is handed out.
#[derive(Debug)]
pub struct ColdImage {
    chunks: Chunks,
    layout: MemoryLayout,
    leaves: BTreeMap<u32, ChunkId>,
    cache: Mutex<BTreeMap<u32, Arc<RecipeLeaf>>>,
}

/// Pages of one chunk that go to one place.
#[derive(Clone, Copy, Debug)]
struct Part {
    id: ChunkId,
    /// Where the pages start in the chunk, in bytes.
    from: usize,
    /// Where they go, in bytes.
    to: usize,
    len: usize,
}

impl ColdImage {
    /// The memory of a recipe; `None` if it has none.
    pub(crate) fn of(chunks: &Chunks, recipe: &Recipe) -> Option<Self> {
        Some(Self {
            chunks: chunks.clone(),
            layout: recipe.layout.clone()?,
            leaves: recipe.leaves.iter().copied().collect(),
            cache: Mutex::default(),
        })
    }

    /// The chunk that holds a page; `None` where it is zero.
    pub(crate) fn chunk_of(&self, page: GuestPage) -> Result<Option<ChunkId>, VaultError> {
        let number = u32::try_from(page.0 / LEAF_PAGES as u64).unwrap_or(u32::MAX);
        let leaf = self.leaf(number)?;
        let within = page.0 / CHUNK_PAGES as u64 % LEAF_CHUNKS as u64;
        let within = usize::try_from(within).unwrap_or(usize::MAX);
        Ok(leaf.and_then(|leaf| leaf.chunks.get(within).copied().flatten()))
    }

    fn leaf(&self, number: u32) -> Result<Option<Arc<RecipeLeaf>>, VaultError> {
        let Some(id) = self.leaves.get(&number) else {
            return Ok(None);
        };
        {
            let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(leaf) = cache.get(&number) {
                return Ok(Some(Arc::clone(leaf)));
            }
        }
        let leaf = Arc::new(read_leaf(&self.chunks, *id)?);
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.len() >= MAX_LEAVES {
            cache.clear();
        }
        cache.insert(number, Arc::clone(&leaf));
        Ok(Some(leaf))
    }

    pub(crate) fn read(&self, pages: PageRange, out: &mut [u8]) -> Result<(), VaultError> {
        if pages.len_bytes() != Some(out.len() as u64) {
            return Err(VaultError::Input {
                what: format!("a buffer of {} bytes for {} pages", out.len(), pages.count),
            });
        }
        out.fill(0);
        let parts = self.parts(pages)?;
        let wanted: Vec<ChunkId> = parts.iter().map(|part| part.id).collect();
        self.chunks.fetch(&wanted, &mut |number, chunk| {
            if let Some(part) = parts.get(number)
                && let Some(target) = out.get_mut(part.to..part.to + part.len)
                && let Some(bytes) = chunk.get(part.from..part.from + part.len)
            {
                target.copy_from_slice(bytes);
            }
        })
    }

    /// The parts of chunks that `pages` are made of, without those that are zero.
    fn parts(&self, pages: PageRange) -> Result<Vec<Part>, VaultError> {
        if pages.end().0 > self.layout.page_count() {
            return Err(VaultError::Input {
                what: format!("page {} is beyond the image", pages.end().0),
            });
        }
        let mut parts = Vec::new();
        let mut to = 0;
        for (guest, run) in self.layout.runs(pages) {
            let mut done = 0;
            while done < run.count {
                let page = GuestPage(guest.0 + done);
                let count = left_in_chunk(page).min(run.count - done);
                // At most 16 pages.
                let len = usize::try_from(count).unwrap_or_default() * PAGE_BYTES;
                if let Some(id) = self.chunk_of(page)? {
                    let within = page.0 % CHUNK_PAGES as u64;
                    let from = usize::try_from(within).unwrap_or_default() * PAGE_BYTES;
                    parts.push(Part { id, from, to, len });
                }
                to += len;
                done += count;
            }
        }
        Ok(parts)
    }

    /// How many of `pages` are in chunks that are all zero, or all not, and which.
    fn alike(&self, pages: PageRange, limit: u64) -> Result<PageRun, VaultError> {
        let mut found: Option<PageRun> = None;
        for (guest, run) in self.layout.runs(pages) {
            let mut done = 0;
            while done < run.count {
                let page = GuestPage(guest.0 + done);
                let is_zero = self.chunk_of(page)?.is_none();
                let here = left_in_chunk(page).min(run.count - done);
                let before = found.map_or(0, |found| found.count);
                let ends = found.is_some_and(|found| found.is_zero != is_zero);
                if ends || before >= limit {
                    return found.ok_or_else(|| beyond(pages));
                }
                let count = before + here;
                found = Some(PageRun { count, is_zero });
                done += here;
            }
        }
        found.ok_or_else(|| beyond(pages))
    }
}

impl PageSource for ColdImage {
    fn layout(&self) -> &MemoryLayout {
        &self.layout
    }

    fn run(&self, pages: PageRange) -> Result<PageRun, SourceError> {
        Ok(self.alike(pages, u64::MAX)?)
    }

    fn piece(&self, pages: PageRange) -> Result<PageRun, SourceError> {
        Ok(self.alike(pages, 1)?)
    }

    fn read_pages(&self, pages: PageRange, out: &mut [u8]) -> Result<(), SourceError> {
        Ok(self.read(pages, out)?)
    }
}

impl From<VaultError> for SourceError {
    fn from(error: VaultError) -> Self {
        Self::Other(Box::new(error))
    }
}

/// Reads a leaf of a recipe.
pub(crate) fn read_leaf(chunks: &Chunks, id: ChunkId) -> Result<RecipeLeaf, VaultError> {
    let mut chunk = zero_chunk();
    chunks.fetch_one(id, &mut chunks.decoder(), &mut chunk)?;
    let zero = chunks.domain().secrets().zero();
    RecipeLeaf::parse(&chunk, zero).map_err(|source| {
        // It has the id that the recipe names: whoever wrote the recipe wrote this.
        let index = chunks.index();
        let mut records = index.located(id, crate::index::Which::Any);
        let pack = records.next().map(|located| located.pack);
        let pack = pack.map(|pack| chunks.domain().name(ObjectKind::Pack, pack));
        match pack {
            Some(name) => VaultError::damaged(&name)(source),
            None => VaultError::Lost {
                domain: chunks.domain().id(),
                id,
                source: None,
            },
        }
    })
}

/// Pages from `page` to the end of its chunk.
pub(crate) fn left_in_chunk(page: GuestPage) -> u64 {
    let pages = CHUNK_PAGES as u64;
    pages - page.0 % pages
}

fn beyond(pages: PageRange) -> VaultError {
    VaultError::Input {
        what: format!("there is no page {} in the image", pages.start.0),
    }
}

/// Leaves that are kept: of 16 GiB of memory, in 8 MiB.
const MAX_LEAVES: usize = 256;

const PAGE_BYTES: usize = CHUNK_BYTES / CHUNK_PAGES;
