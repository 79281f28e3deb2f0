//! Giving chunks their places in the data file and in the map, in order.

use std::time::Instant;

use snapshot_format::{
    DataLayout, Digest, IndexLeafBuilder, LEAF_PAGES, MemoryLayout, PAGE_BYTES, PageRange,
    PageState,
};

use super::choice::Choice;
use super::chunk::{Body, Chunk, PAGE, bytes_of};
use super::leaves::{LeafWriter, WrittenLeaves};
use super::pace::Pace;
use super::pipeline::PlaceChunks;
use super::{CaptureControl, CaptureProgress, Engine};
use crate::direct::{DirectBuffer, Piece};
use crate::error::SinkError;
use crate::sink::MemoryStats;
use crate::source::GuestMemorySource;
use crate::staged::StagedQueue;

/// What a capture did.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) present: u64,
    pub(super) zero: u64,
    /// Writes that were handed to the queue.
    pub(super) calls: u64,
    /// Nanoseconds spent in handing over and in waiting for the disk.
    pub(super) write_ns: u64,
    pub(super) engine: Engine,
}

impl Tally {
    pub(super) fn stats(
        &self,
        layout: &MemoryLayout,
        data_layout: DataLayout,
        allocated_bytes: u64,
    ) -> MemoryStats {
        MemoryStats {
            present: self.present,
            zero: self.zero,
            inherited: layout.page_count() - self.present - self.zero,
            allocated_bytes,
            write_calls: self.calls,
            write_ns: self.write_ns,
            layout: Some(data_layout),
            engine: self.engine,
        }
    }
}

/// Pages of a chunk that are stored, in a row in the chunk and in the image.
#[derive(Clone, Copy, Debug)]
struct Kept {
    /// The first, counted in the chunk.
    at: u64,
    pages: PageRange,
}

/// Enters chunks in the map and hands their bytes to the queue of writes.
pub(super) struct Placer<'a, 'm> {
    source: &'a dyn GuestMemorySource,
    queue: StagedQueue<'a>,
    leaves: LeafWriter<'m>,
    data_layout: DataLayout,
    control: CaptureControl,
    pace: Pace,
    total_bytes: u64,
    taken_bytes: u64,
    kept: Vec<Kept>,
    tally: Tally,
}

impl<'a, 'm> Placer<'a, 'm> {
    pub(super) fn new(
        source: &'a dyn GuestMemorySource,
        queue: StagedQueue<'a>,
        leaves: LeafWriter<'m>,
        choice: Choice,
        control: CaptureControl,
    ) -> Self {
        let pace = Pace::start(control.cancel.clone(), control.bytes_per_second);
        Self {
            source,
            queue,
            leaves,
            data_layout: choice.data_layout,
            control,
            pace,
            total_bytes: choice.page_count * PAGE_BYTES,
            taken_bytes: 0,
            kept: Vec::new(),
            tally: Tally::default(),
        }
    }

    /// Waits until everything is written.
    pub(super) fn finish(mut self) -> Result<(Tally, WrittenLeaves<'m>), SinkError> {
        // The last leaf is written while the disk is at the last pages.
        let leaves = self.leaves.finish()?;
        let started = Instant::now();
        self.queue.finish()?;
        self.tally.write_ns += nanoseconds(started);
        self.tally.engine = self.queue.engine();
        Ok((self.tally, leaves))
    }

    /// Enters the pages of a chunk in the map, and notes in `kept` which are stored.
    fn enter(&mut self, chunk: &Chunk) -> Result<(), SinkError> {
        let layout = self.source.layout();
        let mut states = chunk.seen.pages.iter();
        let mut digests = chunk.seen.digests.iter();
        let unit_pages = self.leaves.unit_pages();
        let mut at = 0;
        self.kept.clear();
        for part in &chunk.parts {
            let data_offset = match self.data_layout {
                DataLayout::Packed => self.tally.present * PAGE_BYTES,
                _ => 0,
            };
            let leaf = self.leaves.leaf(part.leaf, data_offset)?;
            let mut unit = None;
            for (guest, run) in layout.runs(part.pages) {
                for (page, image) in (guest.0..).zip(run.start.0..run.end().0) {
                    let within = usize::try_from(page % LEAF_PAGES as u64).unwrap_or(0);
                    match states.next() {
                        Some(PageState::Zero) => {
                            leaf.zero().insert(within, 1);
                            self.tally.zero += 1;
                        }
                        Some(PageState::Present) => {
                            leaf.present().insert(within, 1);
                            self.tally.present += 1;
                            keep(&mut self.kept, at, image);
                            let of = Some(page / unit_pages);
                            if unit != of {
                                unit = of;
                                digest(leaf, digests.next());
                            }
                        }
                        _ => {}
                    }
                    at += 1;
                }
            }
        }
        Ok(())
    }

    /// Writes what is kept of a copy; packed data goes from page `first` of the file on.
    fn submit_copy(&mut self, mut buffer: DirectBuffer, first: u64) -> Result<(), SinkError> {
        let mut pieces: Vec<Piece> = Vec::with_capacity(self.kept.len());
        let mut moved = 0;
        for kept in &self.kept {
            let from = bytes_of(kept.at);
            let len_bytes = bytes_of(kept.pages.count);
            if self.data_layout == DataLayout::Packed {
                if from != moved {
                    buffer.copy_within(from..from + len_bytes, moved);
                }
                moved += len_bytes;
            } else {
                pieces.push(Piece {
                    start: from,
                    len_bytes,
                    offset: kept.pages.start.0 * PAGE_BYTES,
                });
            }
        }
        if moved > 0 {
            pieces.push(Piece {
                start: 0,
                len_bytes: moved,
                offset: first * PAGE_BYTES,
            });
        }
        self.tally.calls += pieces.len() as u64;
        Ok(self.queue.submit(buffer, &pieces)?)
    }

    /// Writes what is kept straight from guest memory.
    fn submit_in_place(&mut self, first: u64) -> Result<(), SinkError> {
        let mut packed = first;
        for kept in std::mem::take(&mut self.kept) {
            let mut rest = kept.pages;
            while !rest.is_empty() {
                let page = match self.data_layout {
                    DataLayout::Packed => packed,
                    _ => rest.start.0,
                };
                let count = self.submit_run(rest, page * PAGE_BYTES)?;
                packed += count;
                rest = PageRange::new(rest.start.0 + count, rest.count - count);
            }
        }
        Ok(())
    }

    /// Writes the first of `pages`; how many.
    fn submit_run(&mut self, pages: PageRange, offset: u64) -> Result<u64, SinkError> {
        self.tally.calls += 1;
        let run = self.source.host_run(pages);
        if let Some(run) = run.filter(|run| run.len_bytes() >= PAGE) {
            let run = run.prefix(bytes_of(pages.count));
            self.queue.submit_run(run, offset)?;
            return Ok((run.len_bytes() / PAGE) as u64);
        }
        // The mapping went away between two questions.
        let mut buffer = self.queue.buffer()?;
        let count = pages.count.min((buffer.len() / PAGE) as u64);
        let len_bytes = bytes_of(count);
        let bytes = buffer.get_mut(..len_bytes).unwrap_or_default();
        self.source
            .read_pages(PageRange::new(pages.start.0, count), bytes)?;
        let start = 0;
        self.queue.submit(
            buffer,
            &[Piece {
                start,
                len_bytes,
                offset,
            }],
        )?;
        Ok(count)
    }
}

impl PlaceChunks for Placer<'_, '_> {
    fn buffer(&mut self) -> Result<DirectBuffer, SinkError> {
        self.pace.check()?;
        let started = Instant::now();
        let buffer = self.queue.buffer()?;
        self.tally.write_ns += nanoseconds(started);
        Ok(buffer)
    }

    fn free_buffer(&mut self) -> Result<Option<DirectBuffer>, SinkError> {
        self.pace.check()?;
        Ok(self.queue.free_buffer()?)
    }

    fn place(&mut self, chunk: Chunk) -> Result<(), SinkError> {
        let first = self.tally.present;
        let pages = chunk.page_count();
        self.enter(&chunk)?;
        let stored = self.tally.present - first;
        self.pace.spend(stored * PAGE_BYTES)?;
        let started = Instant::now();
        match chunk.body {
            Body::Copy(buffer) => self.submit_copy(buffer, first)?,
            Body::InPlace => self.submit_in_place(first)?,
        }
        self.tally.write_ns += nanoseconds(started);
        self.taken_bytes += pages * PAGE_BYTES;
        self.control.tell(CaptureProgress {
            taken_bytes: self.taken_bytes,
            total_bytes: self.total_bytes,
            written_bytes: self.tally.present * PAGE_BYTES,
        });
        Ok(())
    }
}

/// Notes a page of a chunk that is stored.
fn keep(kept: &mut Vec<Kept>, at: u64, image: u64) {
    match kept.last_mut() {
        Some(last) if last.at + last.pages.count == at && last.pages.end().0 == image => {
            last.pages.count += 1;
        }
        _ => kept.push(Kept {
            at,
            pages: PageRange::new(image, 1),
        }),
    }
}

/// Enters a digest. One that is missing is found when the leaf is finished.
fn digest(leaf: &mut IndexLeafBuilder, digest: Option<&Digest>) {
    if let Some(digest) = digest {
        leaf.digest(*digest);
    }
}

fn nanoseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
