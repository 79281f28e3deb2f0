//! What is done to chunks of memory on whichever thread is free.

use snapshot_format::{GuestPage, LEAF_PAGES, MemoryLayout, PageIndex, PageRange};
use snapshot_memory::{DirtyBitmap, PageSource, is_zero};

use crate::chunk::{Chunk, ChunkEncoder, Encoded};
use crate::error::VaultError;
use crate::fetch::Chunks;
use crate::id::ChunkId;
use crate::image::ColdImage;
use crate::index::Way;
use crate::limits::{CHUNK_BYTES, CHUNK_PAGES, LEAF_CHUNKS, MAX_DELTA_PAGES};
use crate::pack::{PageMask, Representation};

/// Chunks that are read and worked on at once: 1 MiB.
pub(super) const BATCH_CHUNKS: usize = 16;

/// Batches of a leaf.
pub(super) const LEAF_BATCHES: usize = LEAF_CHUNKS / BATCH_CHUNKS;

/// Chunks of guest memory that follow each other in one leaf.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Batch {
    pub(super) leaf: u32,
    /// Which batch of the leaf.
    pub(super) number: usize,
}

/// What became of one chunk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Worked {
    /// All zero, or no memory.
    Zero,
    /// It is in the vault.
    Known(ChunkId, Way),
    /// It has to be stored; where it is a delta, with the way in which its base was found.
    New(Encoded, Option<Way>),
}

/// Where memory comes from, and what it is nearly equal to.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) memory: &'a dyn PageSource,
    pub(super) chunks: &'a Chunks,
    /// An image of the same layout, and the image pages that may differ from it.
    pub(super) near: Option<(&'a ColdImage, &'a DirtyBitmap)>,
}

/// Works on batches, one after the other.
pub(super) struct Worker<'a> {
    source: Source<'a>,
    encoder: ChunkEncoder,
    buffer: Vec<u8>,
}

/// What is known of a chunk before it is read.
#[derive(Clone, Copy)]
struct Near {
    /// The chunk of the near image at its place; `None`: zero.
    chunk: Option<ChunkId>,
    /// The pages that may differ from it.
    changed: PageMask,
}

impl Batch {
    /// The guest pages of the batch.
    fn pages(self) -> (u64, u64) {
        let first = u64::from(self.leaf) * LEAF_PAGES as u64;
        let start = first + (self.number * BATCH_CHUNKS * CHUNK_PAGES) as u64;
        (start, (BATCH_CHUNKS * CHUNK_PAGES) as u64)
    }
}

impl<'a> Worker<'a> {
    pub(super) const fn new(source: Source<'a>, encoder: ChunkEncoder) -> Self {
        Self {
            source,
            encoder,
            buffer: Vec::new(),
        }
    }

    /// Reads what has to be read of a batch, and says what became of each of its chunks.
    pub(super) fn work(&mut self, batch: Batch) -> Result<Vec<Worked>, VaultError> {
        let (start, count) = batch.pages();
        let parts = parts(self.source.memory.layout(), start, count);
        let mut nears = [None; BATCH_CHUNKS];
        for (near, number) in nears.iter_mut().zip(0_u64..) {
            let first = GuestPage(start + number * CHUNK_PAGES as u64);
            *near = self.near(first, &parts)?;
        }
        let settled = nears.map(|near: Option<Near>| near.and_then(|near| self.settle(near)));
        self.buffer.clear();
        self.buffer.resize(BATCH_CHUNKS * CHUNK_BYTES, 0);
        for part in &parts {
            self.read(*part, start, &settled)?;
        }
        let (chunks, _) = self.buffer.as_chunks::<CHUNK_BYTES>();
        let mut worked = Vec::with_capacity(BATCH_CHUNKS);
        for ((chunk, near), settled) in chunks.iter().zip(nears).zip(settled) {
            worked.push(match settled {
                Some(settled) => settled,
                None => work_chunk(self.source.chunks, &mut self.encoder, chunk, near),
            });
        }
        Ok(worked)
    }

    /// What the near image says of the chunk that begins at `first`.
    fn near(&self, first: GuestPage, parts: &[Part]) -> Result<Option<Near>, VaultError> {
        let Some((image, dirty)) = self.source.near else {
            return Ok(None);
        };
        let mut changed = PageMask::default();
        for page in 0..CHUNK_PAGES {
            let guest = first.0 + page as u64;
            let part = parts.iter().find(|part| part.holds(guest));
            let image_page = part.map(|part| part.image + (guest - part.guest));
            let is_changed = image_page.is_some_and(|page| dirty.is_set(PageIndex(page)));
            changed = if is_changed {
                changed.with(page)
            } else {
                changed
            };
        }
        Ok(Some(Near {
            chunk: image.chunk_of(first)?,
            changed,
        }))
    }

    /// What a chunk is of which no page can have changed; `None` where it has to be read.
    fn settle(&self, near: Near) -> Option<Worked> {
        if !near.changed.is_empty() {
            return None;
        }
        let Some(id) = near.chunk else {
            return Some(Worked::Zero);
        };
        let way = self.source.chunks.index().find(id)?;
        Some(Worked::Known(id, way))
    }

    /// Reads the pages of a part that are in chunks which are not settled, and not zero.
    fn read(
        &mut self,
        part: Part,
        start: u64,
        settled: &[Option<Worked>; BATCH_CHUNKS],
    ) -> Result<(), VaultError> {
        let chunk_of = |guest: u64| usize::try_from((guest - start) / CHUNK_PAGES as u64);
        let is_settled = |guest: u64| {
            let settled = chunk_of(guest).ok().and_then(|chunk| settled.get(chunk));
            settled.is_some_and(Option::is_some)
        };
        let mut done = 0;
        while done < part.count {
            let skip = is_settled(part.guest + done);
            let mut end = done;
            while end < part.count && is_settled(part.guest + end) == skip {
                end += 1;
            }
            if !skip {
                let pages = PageRange::new(part.image + done, end - done);
                self.read_run(pages, part.guest + done - start)?;
            }
            done = end;
        }
        Ok(())
    }

    /// Reads pages into the buffer, `at` pages from its start. It is zero there.
    fn read_run(&mut self, pages: PageRange, at: u64) -> Result<(), VaultError> {
        let memory = self.source.memory;
        let mut done = 0;
        while done < pages.count {
            let rest = PageRange::new(pages.start.0 + done, pages.count - done);
            let run = memory.run(rest).map_err(VaultError::memory)?;
            let count = run.count.clamp(1, rest.count);
            if !run.is_zero {
                // At most a batch.
                let from = usize::try_from(at + done).unwrap_or(usize::MAX);
                let len = usize::try_from(count).unwrap_or_default() * PAGE_BYTES;
                let from = from.saturating_mul(PAGE_BYTES);
                let out = self.buffer.get_mut(from..from.saturating_add(len));
                let out = out.unwrap_or_default();
                let range = PageRange::new(rest.start.0, count);
                memory.read_pages(range, out).map_err(VaultError::memory)?;
            }
            done += count;
        }
        Ok(())
    }
}

/// Names a chunk and looks for it; compresses it where it is not there.
fn work_chunk(
    chunks: &Chunks,
    encoder: &mut ChunkEncoder,
    chunk: &Chunk,
    near: Option<Near>,
) -> Worked {
    if is_zero(chunk) {
        return Worked::Zero;
    }
    let id = chunks.domain().secrets().chunk_id(chunk);
    let delta = {
        let index = chunks.index();
        if let Some(way) = index.find(id) {
            return Worked::Known(id, way);
        }
        let zero = chunks.domain().secrets().zero();
        near.and_then(|near| {
            let near_id = near.chunk.unwrap_or(zero);
            let way = index.find(near_id)?;
            Some((delta_of(near_id, way, near.changed, zero)?, way))
        })
    };
    let (representation, over) = match delta {
        Some((delta, way)) => (delta, Some(way)),
        None => (Representation::Full, None),
    };
    Worked::New(encoder.encode(id, chunk, representation), over)
}

/// The delta of a chunk that differs from another in `changed`: over the base of the other where
/// that is a delta itself. `None` where it would have too many pages.
fn delta_of(other: ChunkId, way: Way, changed: PageMask, zero: ChunkId) -> Option<Representation> {
    let (base, before) = match way {
        Way::Zero => (zero, PageMask::default()),
        Way::Full(_) => (other, PageMask::default()),
        Way::OverZero(delta) | Way::Over { delta, .. } => match delta.entry.representation {
            Representation::Delta { base, mask } => (base, mask),
            Representation::Full => (other, PageMask::default()),
        },
    };
    let mask = changed.union(before);
    (mask.count() <= MAX_DELTA_PAGES).then_some(Representation::Delta { base, mask })
}

/// Guest pages that follow each other in the image, too.
#[derive(Clone, Copy, Debug)]
struct Part {
    guest: u64,
    image: u64,
    count: u64,
}

impl Part {
    const fn holds(&self, guest: u64) -> bool {
        guest >= self.guest && guest - self.guest < self.count
    }
}

/// The memory among `count` guest pages from `start`.
fn parts(layout: &MemoryLayout, start: u64, count: u64) -> Vec<Part> {
    let mut image = 0;
    let mut parts = Vec::new();
    for region in layout.regions() {
        let first = region.start.page().0;
        let pages = region.len_bytes / PAGE_BYTES as u64;
        let from = first.max(start);
        let to = (first + pages).min(start + count);
        if from < to {
            parts.push(Part {
                guest: from,
                image: image + (from - first),
                count: to - from,
            });
        }
        image += pages;
    }
    parts
}

const PAGE_BYTES: usize = CHUNK_BYTES / CHUNK_PAGES;
