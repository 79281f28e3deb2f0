//! Looking at some pages: which are zero, and what the digests of the others are.

use snapshot_format::{
    Digest, GuestPage, MemoryLayout, PAGE_BYTES, PageIndex, PageRange, PageState,
};

use super::inherit::{Candidate, Inheritance};
use super::plan::Part;
use crate::direct::DirectBuffer;
use crate::error::{MemoryError, SinkError};
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
    /// For each page what is to become of it.
    pub(super) pages: Vec<PageState>,
    /// By ascending page, one for each digest unit with a present page.
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
    inheritance: Option<Inheritance<'a>>,
    /// What pages are copied to that will be written from where they are.
    scratch: Box<[u8]>,
}

impl<'a> ChunkReader<'a> {
    /// With an inheritance chunks are copied and units are of one page.
    pub(super) fn new(
        source: &'a dyn GuestMemorySource,
        unit_pages: u16,
        inheritance: Option<Inheritance<'a>>,
    ) -> Self {
        Self {
            source,
            unit_pages,
            inheritance,
            scratch: Box::default(),
        }
    }

    /// Copies the pages of a chunk, each once, finds those that are zero, digests the others, and
    /// finds those that are as in the parent.
    pub(super) fn read(&mut self, chunk: &mut Chunk) -> Result<(), SinkError> {
        self.copy(chunk)?;
        match (&mut self.inheritance, &chunk.body) {
            (Some(inheritance), Body::Copy(copy)) => {
                chunk
                    .seen
                    .inherit(inheritance, self.source.layout(), &chunk.parts, copy)
            }
            _ => Ok(()),
        }
    }

    fn copy(&mut self, chunk: &mut Chunk) -> Result<(), MemoryError> {
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
    pub(super) fn look(&mut self, bytes: &[u8], unit_pages: u16) {
        let (pages, _) = bytes.as_chunks::<PAGE>();
        let mut any = false;
        for page in pages {
            if is_zero(page) {
                self.pages.push(PageState::Zero);
                continue;
            }
            self.pages.push(PageState::Present);
            any = true;
            if unit_pages == 1 {
                self.digests.push(Digest::of(page));
            }
        }
        if any && unit_pages > 1 {
            self.digests.push(Digest::of(bytes));
        }
    }

    /// Finds the pages of a copy that are as in the parent, and takes their digests away.
    fn inherit(
        &mut self,
        inheritance: &mut Inheritance<'_>,
        layout: &MemoryLayout,
        parts: &[Part],
        copy: &[u8],
    ) -> Result<(), SinkError> {
        let runs = parts.iter().flat_map(|part| layout.runs(part.pages));
        let places = runs.flat_map(|(guest, run)| (guest.0..).zip(run.start.0..run.end().0));
        let mut digests = self.digests.iter();
        let states = self.pages.iter().zip(copy.chunks(PAGE));
        let candidates: Vec<Candidate<'_>> = places
            .zip(states)
            .map(|((guest, image), (state, bytes))| Candidate {
                guest: GuestPage(guest),
                image: PageIndex(image),
                bytes,
                digest: match state {
                    PageState::Present => digests.next().copied(),
                    _ => None,
                },
            })
            .collect();
        let same = inheritance.same_pages(&candidates)?;
        let kept = candidates.iter().zip(same).filter(|(_, same)| !**same);
        self.digests = kept.filter_map(|(page, _)| page.digest).collect();
        for (state, same) in self.pages.iter_mut().zip(same) {
            if *same {
                *state = PageState::Inherited;
            }
        }
        Ok(())
    }
}

pub(super) fn bytes_of(pages: u64) -> usize {
    usize::try_from(pages).map_or(usize::MAX, |pages| pages.saturating_mul(PAGE))
}
