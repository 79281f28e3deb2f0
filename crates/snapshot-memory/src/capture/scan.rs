//! Looking at the pages of one leaf: zero or not, and what their digests are.

use snapshot_format::{
    Digest, GuestPage, IndexLeafBuilder, LEAF_PAGES, MemoryLayout, PAGE_BYTES, PageRange,
};

use super::data::DataWriter;
use crate::error::SinkError;
use crate::source::GuestMemorySource;
use crate::zero::is_zero;

/// Pages that are copied at once: 1 MiB, which the second-level cache holds.
pub(super) const CHUNK_PAGES: u64 = 256;

#[expect(clippy::cast_possible_truncation, reason = "4096")]
const PAGE: usize = PAGE_BYTES as usize;

/// Copies pages, finds the zero ones, digests the others and hands them to the data file.
pub(super) struct Scanner<'a> {
    source: &'a dyn GuestMemorySource,
    unit_pages: u16,
    buffer: Box<[u8]>,
    pub(super) present: u64,
    pub(super) zero: u64,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(source: &'a dyn GuestMemorySource, unit_pages: u16) -> Self {
        Self {
            source,
            unit_pages,
            buffer: vec![0; usize::try_from(CHUNK_PAGES).unwrap_or(0) * PAGE].into(),
            present: 0,
            zero: 0,
        }
    }

    /// Takes `pages` of the image into `leaf`, all of which lie in it. With units of several pages
    /// they begin and end with a unit.
    pub(super) fn take(
        &mut self,
        pages: PageRange,
        leaf: &mut IndexLeafBuilder,
        data: &mut DataWriter<'_>,
    ) -> Result<(), SinkError> {
        let layout = self.source.layout();
        let mut rest = pages;
        while !rest.is_empty() {
            let count = self.chunk(layout, rest);
            let chunk = PageRange::new(rest.start.0, count);
            self.take_chunk(chunk, leaf, data)?;
            rest = PageRange::new(rest.start.0 + count, rest.count - count);
        }
        Ok(())
    }

    /// How many of `rest` to copy at once: up to the buffer, cut where a unit ends.
    fn chunk(&self, layout: &MemoryLayout, rest: PageRange) -> u64 {
        if rest.count <= CHUNK_PAGES {
            return rest.count;
        }
        let next = PageRange::new(rest.start.0 + CHUNK_PAGES, 1).start;
        let unit = layout
            .guest_page(next)
            .and_then(|page| layout.unit(page, self.unit_pages));
        unit.map_or(CHUNK_PAGES, |unit| unit.start.0 - rest.start.0)
    }

    fn take_chunk(
        &mut self,
        chunk: PageRange,
        leaf: &mut IndexLeafBuilder,
        data: &mut DataWriter<'_>,
    ) -> Result<(), SinkError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let len = bytes_of(chunk.count);
        let result = buffer.get_mut(..len).map_or(Ok(()), |copy| {
            self.source.read_pages(chunk, copy)?;
            self.take_copy(chunk, copy, leaf, data)
        });
        self.buffer = buffer;
        result
    }

    fn take_copy(
        &mut self,
        chunk: PageRange,
        copy: &[u8],
        leaf: &mut IndexLeafBuilder,
        data: &mut DataWriter<'_>,
    ) -> Result<(), SinkError> {
        let source = self.source;
        let layout = source.layout();
        // A run of present pages that goes on, in pages from the start of the chunk.
        let mut run = 0..0;
        // The unit that the last page belongs to, and whether it has a present page.
        let mut unit = Unit::default();
        for (guest, part) in layout.runs(chunk) {
            let first = part.start.0 - chunk.start.0;
            for index in 0..part.count {
                let page = GuestPage(guest.0 + index);
                let at = first + index;
                unit.enter(page.0 / u64::from(self.unit_pages), at, copy, leaf);
                let within = within_leaf(page);
                if is_zero(slice(copy, at..at + 1)) {
                    leaf.zero().insert(within, 1);
                    self.zero += 1;
                    continue;
                }
                leaf.present().insert(within, 1);
                unit.present = true;
                self.present += 1;
                if run.end == at && run.start < run.end {
                    run.end += 1;
                } else {
                    write(chunk, &run, copy, data)?;
                    run = at..at + 1;
                }
            }
        }
        unit.close(chunk.count, copy, leaf);
        write(chunk, &run, copy, data)
    }
}

/// The pages that share a digest, while they are gone through.
#[derive(Debug, Default)]
struct Unit {
    number: Option<u64>,
    start: u64,
    present: bool,
}

impl Unit {
    /// Goes on to the page `at` of the copy, which is in unit `number`.
    fn enter(&mut self, number: u64, at: u64, copy: &[u8], leaf: &mut IndexLeafBuilder) {
        if self.number != Some(number) {
            self.close(at, copy, leaf);
            *self = Self {
                number: Some(number),
                start: at,
                present: false,
            };
        }
    }

    /// Digests the unit, which ends before page `end` of the copy.
    fn close(&self, end: u64, copy: &[u8], leaf: &mut IndexLeafBuilder) {
        if self.present {
            leaf.digest(Digest::of(slice(copy, self.start..end)));
        }
    }
}

fn write(
    chunk: PageRange,
    run: &std::ops::Range<u64>,
    copy: &[u8],
    data: &mut DataWriter<'_>,
) -> Result<(), SinkError> {
    if run.is_empty() {
        return Ok(());
    }
    let pages = PageRange::new(chunk.start.0 + run.start, run.end - run.start);
    data.put(pages, slice(copy, run.clone()))
}

/// Pages of a copy; the caller counts within it.
fn slice(copy: &[u8], pages: std::ops::Range<u64>) -> &[u8] {
    copy.get(bytes_of(pages.start)..bytes_of(pages.end))
        .unwrap_or_default()
}

fn bytes_of(pages: u64) -> usize {
    usize::try_from(pages).map_or(usize::MAX, |pages| pages.saturating_mul(PAGE))
}

fn within_leaf(page: GuestPage) -> usize {
    usize::try_from(page.0 % LEAF_PAGES as u64).unwrap_or(0)
}
