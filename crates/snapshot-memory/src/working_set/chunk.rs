//! The pieces in which a working set is read, and which runs each of them holds.

use snapshot_format::{PAGE_BYTES, PageRange, WORKING_SET_UNIT_BYTES, WorkingSetIndex};

use super::error::WorkingSetError;
use super::target::PageTarget;

/// Bytes of one read: whole units.
pub(super) const CHUNK_BYTES: usize = 16 * WORKING_SET_UNIT_BYTES;

/// A piece of the data, and the runs that start or go on in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Chunk {
    /// Where it starts in the data.
    pub(super) start: u64,
    pub(super) len_bytes: usize,
    /// The run of its first page.
    first_run: usize,
    /// Pages of that run that lie in the chunk before.
    skip: u64,
    /// One past the last run that starts in it.
    end_run: usize,
}

/// The chunks of a working set in order; zero runs go with the data before them.
pub(super) fn chunks(index: &WorkingSetIndex) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    let mut chunk = Chunk {
        start: 0,
        len_bytes: 0,
        first_run: 0,
        skip: 0,
        end_run: 0,
    };
    for (number, run) in index.runs.iter().enumerate() {
        let mut done = 0;
        while done < run.data_pages() {
            if chunk.len_bytes == CHUNK_BYTES {
                chunks.push(chunk);
                chunk = Chunk {
                    start: chunk.start + CHUNK_BYTES as u64,
                    len_bytes: 0,
                    first_run: number,
                    skip: done,
                    end_run: number,
                };
            }
            let room = (CHUNK_BYTES - chunk.len_bytes) as u64 / PAGE_BYTES;
            let now = room.min(run.data_pages() - done);
            chunk.len_bytes += len_of(now);
            done += now;
            chunk.end_run = number + 1;
        }
        chunk.end_run = number + 1;
    }
    chunks.push(chunk);
    chunks
}

impl Chunk {
    /// Compares the units of `bytes`, the whole chunk, with their digests.
    pub(super) fn check(
        &self,
        index: &WorkingSetIndex,
        file: &str,
        bytes: &[u8],
    ) -> Result<(), WorkingSetError> {
        let unit_bytes = WORKING_SET_UNIT_BYTES as u64;
        let first = usize::try_from(self.start / unit_bytes).unwrap_or(usize::MAX);
        for (number, bytes) in bytes.chunks(WORKING_SET_UNIT_BYTES).enumerate() {
            let checked = index.check_unit(first.saturating_add(number), bytes);
            checked.map_err(WorkingSetError::damaged(file))?;
        }
        Ok(())
    }

    /// Puts the pages of `bytes`, the whole chunk, and its zero pages in place. Gives how many
    /// pages of either.
    pub(super) fn put(
        &self,
        index: &WorkingSetIndex,
        target: &dyn PageTarget,
        mut bytes: &[u8],
    ) -> Result<(u64, u64), WorkingSetError> {
        let failed = |pages| move |source| WorkingSetError::Place { pages, source };
        let (mut data_pages, mut zero_pages) = (0, 0);
        let runs = index.runs.get(self.first_run..self.end_run);
        for (number, run) in runs.unwrap_or_default().iter().enumerate() {
            if run.is_zero {
                target.put_zero(run.pages).map_err(failed(run.pages))?;
                zero_pages += run.pages.count;
                continue;
            }
            let skip = if number == 0 { self.skip } else { 0 };
            let left = bytes.len() as u64 / PAGE_BYTES;
            let count = (run.pages.count - skip).min(left);
            let pages = PageRange::new(run.pages.start.0 + skip, count);
            let now = bytes.split_off(..len_of(count)).unwrap_or_default();
            target.put(pages, now).map_err(failed(pages))?;
            data_pages += count;
        }
        Ok((data_pages, zero_pages))
    }
}

/// The length in bytes of pages of one chunk.
fn len_of(pages: u64) -> usize {
    usize::try_from(pages * PAGE_BYTES).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
