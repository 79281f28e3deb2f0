//! Gathering pages in buffers, and writing the buffers while the next ones fill.

use std::time::Instant;

use snapshot_format::{
    DataLayout, Digest, IndexLeafBuilder, LEAF_PAGES, PAGE_BYTES, PageIndex, PageRange,
};

use super::Engine;
use crate::direct::{DirectBuffer, Piece};
use crate::error::SinkError;
use crate::source::GuestMemorySource;
use crate::staged::StagedQueue;
use crate::zero::is_zero;

#[expect(clippy::cast_possible_truncation, reason = "4096")]
const PAGE: usize = PAGE_BYTES as usize;

/// Pages that are copied, looked at and digested before the next ones: 64 KiB, which the
/// first-level caches hold.
const STEP_PAGES: u64 = 16;

const BUFFER_PAGES: u64 = DirectBuffer::LEN_BYTES as u64 / PAGE_BYTES;

/// Copies pages once, finds the zero ones, digests exactly the copy, and writes exactly that.
///
/// It does not matter whether the guest runs meanwhile. Guest memory in small, scattered pages is
/// written a third faster through such buffers than from where it is.
pub(super) struct Gatherer<'a> {
    source: &'a dyn GuestMemorySource,
    queue: StagedQueue<'a>,
    data_layout: DataLayout,
    unit_pages: u16,
    buffer: Option<DirectBuffer>,
    /// Pages in the buffer.
    filled: u64,
    pieces: Vec<Piece>,
    tally: Tally,
}

/// What was gathered.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) present: u64,
    pub(super) zero: u64,
    /// Writes that were submitted.
    pub(super) calls: u64,
    /// Nanoseconds spent in submitting and in waiting for the disk.
    pub(super) write_ns: u64,
    pub(super) engine: Engine,
}

impl<'a> Gatherer<'a> {
    pub(super) fn new(
        source: &'a dyn GuestMemorySource,
        queue: StagedQueue<'a>,
        data_layout: DataLayout,
        unit_pages: u16,
    ) -> Self {
        let tally = Tally {
            engine: queue.engine(),
            ..Tally::default()
        };
        let (pieces, buffer) = (Vec::new(), None);
        Self {
            source,
            queue,
            data_layout,
            unit_pages,
            buffer,
            filled: 0,
            pieces,
            tally,
        }
    }

    /// Where the next present page goes in packed data; 0 in sparse data.
    pub(super) fn data_offset(&self) -> u64 {
        match self.data_layout {
            DataLayout::Packed => self.tally.present * PAGE_BYTES,
            _ => 0,
        }
    }

    /// Takes `pages` of the image into `leaf`, all of which lie in it. With units of several pages
    /// they begin and end with a unit.
    pub(super) fn take(
        &mut self,
        pages: PageRange,
        leaf: &mut IndexLeafBuilder,
    ) -> Result<(), SinkError> {
        let mut rest = pages;
        while !rest.is_empty() {
            let count = self.step(rest);
            if self.filled + count > BUFFER_PAGES {
                self.flush()?;
            }
            self.take_step(PageRange::new(rest.start.0, count), leaf)?;
            rest = PageRange::new(rest.start.0 + count, rest.count - count);
        }
        Ok(())
    }

    /// Waits until everything is written.
    pub(super) fn finish(mut self) -> Result<Tally, SinkError> {
        self.flush()?;
        let started = Instant::now();
        self.queue.finish()?;
        self.tally.write_ns += nanoseconds(started);
        Ok(self.tally)
    }

    /// How many of `rest` to take at once: cut where a unit ends.
    fn step(&self, rest: PageRange) -> u64 {
        if self.unit_pages == 1 {
            return rest.count.min(STEP_PAGES);
        }
        let layout = self.source.layout();
        let page = layout.guest_page(rest.start);
        let unit = page.and_then(|page| layout.unit(page, self.unit_pages));
        unit.map_or(1, |unit| unit.count).min(rest.count)
    }

    fn take_step(
        &mut self,
        pages: PageRange,
        leaf: &mut IndexLeafBuilder,
    ) -> Result<(), SinkError> {
        let mut buffer = match self.buffer.take() {
            Some(buffer) => buffer,
            None => {
                let started = Instant::now();
                let buffer = self.queue.buffer()?;
                self.tally.write_ns += nanoseconds(started);
                buffer
            }
        };
        let start = bytes_of(self.filled);
        let copy = buffer
            .get_mut(start..start + bytes_of(pages.count))
            .unwrap_or_default();
        self.source.read_pages(pages, copy)?;
        let kept = self.look(pages, copy, leaf);
        self.filled += kept;
        self.buffer = Some(buffer);
        Ok(())
    }

    /// Enters a copy of `pages` in `leaf`. How many pages of it stay in the buffer: in packed data
    /// the present ones, moved together.
    fn look(&mut self, pages: PageRange, copy: &mut [u8], leaf: &mut IndexLeafBuilder) -> u64 {
        let layout = self.source.layout();
        let is_packed = self.data_layout == DataLayout::Packed;
        let before = self.tally.present;
        let mut kept = 0;
        for (index, page) in (pages.start.0..pages.end().0).enumerate() {
            let within = layout.guest_page(PageIndex(page)).map_or(0, |guest| {
                usize::try_from(guest.0 % LEAF_PAGES as u64).unwrap_or(0)
            });
            let here = index * PAGE..(index + 1) * PAGE;
            let bytes = copy.get(here.clone()).unwrap_or_default();
            if is_zero(bytes) {
                leaf.zero().insert(within, 1);
                self.tally.zero += 1;
                continue;
            }
            leaf.present().insert(within, 1);
            self.tally.present += 1;
            if self.unit_pages == 1 {
                leaf.digest(Digest::of(bytes));
            }
            if is_packed {
                copy.copy_within(here, kept * PAGE);
                kept += 1;
            } else {
                let start = bytes_of(self.filled) + index * PAGE;
                self.add_piece(start, page * PAGE_BYTES);
            }
        }
        if self.unit_pages > 1 && self.tally.present > before {
            leaf.digest(Digest::of(copy));
        }
        if is_packed {
            if kept > 0 && self.pieces.is_empty() {
                let start = bytes_of(self.filled);
                self.pieces.push(Piece {
                    start,
                    len_bytes: 0,
                    offset: before * PAGE_BYTES,
                });
            }
            if let Some(piece) = self.pieces.last_mut() {
                piece.len_bytes += kept * PAGE;
            }
            return kept as u64;
        }
        pages.count
    }

    /// Adds a page of the buffer that goes to `offset`, joined to the one before where both follow.
    fn add_piece(&mut self, start: usize, offset: u64) {
        match self.pieces.last_mut() {
            Some(piece)
                if piece.start + piece.len_bytes == start
                    && piece.offset + piece.len_bytes as u64 == offset =>
            {
                piece.len_bytes += PAGE;
            }
            _ => self.pieces.push(Piece {
                start,
                len_bytes: PAGE,
                offset,
            }),
        }
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        if let Some(buffer) = self.buffer.take() {
            let started = Instant::now();
            self.queue.submit(buffer, &self.pieces)?;
            self.tally.write_ns += nanoseconds(started);
            self.tally.calls += self.pieces.len() as u64;
        }
        self.pieces.clear();
        self.filled = 0;
        Ok(())
    }
}

fn bytes_of(pages: u64) -> usize {
    usize::try_from(pages).map_or(usize::MAX, |pages| pages.saturating_mul(PAGE))
}

fn nanoseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
