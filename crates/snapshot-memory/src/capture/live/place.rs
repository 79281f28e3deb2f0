//! Giving chunks of a live snapshot their places.

use snapshot_format::{LEAF_PAGES, MemoryLayout, PAGE_BYTES, PageState};

use super::leaves::LiveLeaves;
use crate::capture::chunk::{Body, Chunk, bytes_of};
use crate::capture::pace::Pace;
use crate::capture::pipeline::PlaceChunks;
use crate::capture::{CaptureControl, CaptureProgress};
use crate::direct::{DirectBuffer, Piece};
use crate::error::SinkError;
use crate::staged::StagedQueue;

/// Notes pages and hands their bytes to a queue of writes, each to its own place in the image.
pub(super) struct LivePlacer<'a, 'q> {
    pub(super) layout: &'a MemoryLayout,
    pub(super) queue: StagedQueue<'q>,
    pub(super) leaves: &'a mut LiveLeaves,
    /// `None`: as fast as it goes.
    pub(super) pace: Option<&'a mut Pace>,
    pub(super) control: &'a CaptureControl,
    pub(super) progress: &'a mut CaptureProgress,
    pub(super) calls: u64,
    pub(super) written_bytes: u64,
}

impl LivePlacer<'_, '_> {
    fn check(&self) -> Result<(), SinkError> {
        self.pace.as_ref().map_or(Ok(()), |pace| pace.check())
    }

    /// Notes what each page of a chunk is now, and which parts of its copy are to be written.
    fn enter(&mut self, chunk: &Chunk) -> Vec<Piece> {
        let mut states = chunk.seen.pages.iter();
        let mut digests = chunk.seen.digests.iter();
        let mut pieces: Vec<Piece> = Vec::new();
        let mut at = 0;
        for part in &chunk.parts {
            let leaf = self.leaves.leaf(part.leaf);
            for (guest, run) in self.layout.runs(part.pages) {
                for (page, image) in (guest.0..).zip(run.start.0..run.end().0) {
                    let within = usize::try_from(page % LEAF_PAGES as u64).unwrap_or(0);
                    let is_written = match (states.next(), digests.as_slice().first()) {
                        (Some(PageState::Present), Some(digest)) => {
                            digests.next();
                            leaf.present(within, *digest);
                            true
                        }
                        (Some(PageState::Zero), _) => leaf.zero(within),
                        _ => false,
                    };
                    if is_written {
                        push(&mut pieces, at, image * PAGE_BYTES);
                    }
                    at += bytes_of(1);
                }
            }
        }
        pieces
    }
}

impl PlaceChunks for LivePlacer<'_, '_> {
    fn buffer(&mut self) -> Result<DirectBuffer, SinkError> {
        self.check()?;
        Ok(self.queue.buffer()?)
    }

    fn free_buffer(&mut self) -> Result<Option<DirectBuffer>, SinkError> {
        self.check()?;
        Ok(self.queue.free_buffer()?)
    }

    fn place(&mut self, chunk: Chunk) -> Result<(), SinkError> {
        let pages = chunk.page_count();
        let pieces = self.enter(&chunk);
        let bytes = pieces.iter().map(|piece| piece.len_bytes as u64).sum();
        if let Some(pace) = &mut self.pace {
            pace.spend(bytes)?;
        }
        self.calls += pieces.len() as u64;
        self.written_bytes += bytes;
        if let Body::Copy(buffer) = chunk.body {
            self.queue.submit(buffer, &pieces)?;
        }
        self.progress.taken_bytes += pages * PAGE_BYTES;
        self.progress.written_bytes += bytes;
        self.control.tell(*self.progress);
        Ok(())
    }
}

/// Adds the page at `start` of the copy, which goes to `offset`.
fn push(pieces: &mut Vec<Piece>, start: usize, offset: u64) {
    let len_bytes = bytes_of(1);
    match pieces.last_mut() {
        Some(last)
            if last.start + last.len_bytes == start
                && last.offset + last.len_bytes as u64 == offset =>
        {
            last.len_bytes += len_bytes;
        }
        _ => pieces.push(Piece {
            start,
            len_bytes,
            offset,
        }),
    }
}
