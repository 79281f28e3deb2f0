//! Looking at some pages: which are zero, and what the digests of the others are.

use snapshot_format::{Digest, PAGE_BYTES, PageRange};

use super::plan::Part;
use crate::direct::DirectBuffer;
use crate::error::MemoryError;
use crate::source::GuestMemorySource;
use crate::zero::is_zero;

#[expect(clippy::cast_possible_truncation, reason = "4096")]
pub(super) const PAGE: usize = PAGE_BYTES as usize;

/// Pages that are copied, looked at and digested before the next ones: 64 KiB, which the
/// first-level caches hold.
const STEP_PAGES: u64 = 16;

/// Pages of a chunk at most: what a buffer holds.
pub(super) const CHUNK_PAGES: u64 = DirectBuffer::LEN_BYTES as u64 / PAGE_BYTES;

/// Some pages on their way from the guest to the data file. What is in it is independent of all
/// other chunks, so that several can be worked on at once.
#[derive(Debug)]
pub(super) struct Chunk {
    /// Its place in the order of the file.
    pub(super) number: u64,
    pub(super) parts: Vec<Part>,
    pub(super) body: Body,
    pub(super) seen: Seen,
}

/// Where the bytes of a chunk are that will be written.
#[derive(Debug)]
pub(super) enum Body {
    /// A private copy: pages one after the other, zero pages included. Exactly it is digested.
    Copy(DirectBuffer),
    /// Guest memory itself, which stands still.
    InPlace,
}

/// What was found in a chunk.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// For each page whether it is zero.
    pub(super) zero: Vec<bool>,
    /// By ascending page, one for each digest unit with a page that is not zero.
    pub(super) digests: Vec<Digest>,
}

impl Chunk {
    pub(super) fn page_count(&self) -> u64 {
        self.parts.iter().map(|part| part.pages.count).sum()
    }
}

/// Reads chunks, each thread with one of its own.
pub(super) struct ChunkReader<'a> {
    source: &'a dyn GuestMemorySource,
    unit_pages: u16,
    /// What pages are copied to that will be written from where they are.
    scratch: Box<[u8]>,
}

impl<'a> ChunkReader<'a> {
    pub(super) fn new(source: &'a dyn GuestMemorySource, unit_pages: u16) -> Self {
        Self {
            source,
            unit_pages,
            scratch: Box::default(),
        }
    }

    /// Copies the pages of a chunk, each once, finds the zero ones and digests the others.
    pub(super) fn read(&mut self, chunk: &mut Chunk) -> Result<(), MemoryError> {
        if matches!(chunk.body, Body::InPlace) && self.scratch.is_empty() {
            self.scratch = vec![0; bytes_of(STEP_PAGES)].into();
        }
        let mut at = 0;
        for part in &chunk.parts {
            let mut rest = part.pages;
            while !rest.is_empty() {
                let count = self.step(rest);
                let bytes = match &mut chunk.body {
                    Body::Copy(buffer) => buffer.get_mut(at..at + bytes_of(count)),
                    Body::InPlace => self.scratch.get_mut(..bytes_of(count)),
                };
                let bytes = bytes.unwrap_or_default();
                self.source
                    .read_pages(PageRange::new(rest.start.0, count), bytes)?;
                chunk.seen.look(bytes, self.unit_pages);
                at += bytes_of(count);
                rest = PageRange::new(rest.start.0 + count, rest.count - count);
            }
        }
        Ok(())
    }

    /// How many of `rest` to look at at once: cut where a unit ends.
    fn step(&self, rest: PageRange) -> u64 {
        if self.unit_pages == 1 {
            return rest.count.min(STEP_PAGES);
        }
        let layout = self.source.layout();
        let page = layout.guest_page(rest.start);
        let unit = page.and_then(|page| layout.unit(page, self.unit_pages));
        unit.map_or(1, |unit| unit.count).min(rest.count)
    }
}

impl Seen {
    /// Enters pages; with units of several pages they are one unit.
    fn look(&mut self, bytes: &[u8], unit_pages: u16) {
        let (pages, _) = bytes.as_chunks::<PAGE>();
        let mut any = false;
        for page in pages {
            let zero = is_zero(page);
            self.zero.push(zero);
            any |= !zero;
            if !zero && unit_pages == 1 {
                self.digests.push(Digest::of(page));
            }
        }
        if any && unit_pages > 1 {
            self.digests.push(Digest::of(bytes));
        }
    }
}

pub(super) fn bytes_of(pages: u64) -> usize {
    usize::try_from(pages).map_or(usize::MAX, |pages| pages.saturating_mul(PAGE))
}
