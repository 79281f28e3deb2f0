//! Writing pages to a sparse data file in as few calls as their order allows.

use std::time::Instant;

use snapshot_format::{PageIndex, PageRange};

use super::scan::CHUNK_PAGES;
use crate::error::SinkError;
use crate::source::{GuestMemorySource, HostRun, Stability};
use crate::staged::StagedFile;

/// Puts pages at their offsets in the raw image.
///
/// Memory that is paused and mapped goes from where it is to the kernel, neighbours joined; what
/// may still change is written from the private copy that was digested.
pub(super) struct DataWriter<'a> {
    file: &'a mut StagedFile,
    source: &'a dyn GuestMemorySource,
    stability: Stability,
    /// Pages that are to be written straight from the guest.
    waiting: PageRange,
    calls: u64,
    ns: u64,
}

impl<'a> DataWriter<'a> {
    pub(super) fn new(
        file: &'a mut StagedFile,
        source: &'a dyn GuestMemorySource,
        stability: Stability,
    ) -> Self {
        Self {
            file,
            source,
            stability,
            waiting: PageRange::new(0, 0),
            calls: 0,
            ns: 0,
        }
    }

    /// Writes `pages`, whose private copy is `copy`. Pages come in ascending order.
    pub(super) fn put(&mut self, pages: PageRange, copy: &[u8]) -> Result<(), SinkError> {
        if self.stability == Stability::Paused && self.source.host_run(pages).is_some() {
            let follows = self.waiting.end() == pages.start && !self.waiting.is_empty();
            if follows && self.waiting.count + pages.count <= CHUNK_PAGES {
                self.waiting.count += pages.count;
            } else {
                self.flush()?;
                self.waiting = pages;
            }
            return Ok(());
        }
        self.flush()?;
        let offset = offset_of(pages.start);
        self.timed(|file| file.write_all_at(offset, copy).map_err(SinkError::from))
    }

    /// Writes what is waiting; calls and nanoseconds of all writes.
    pub(super) fn finish(mut self) -> Result<(u64, u64), SinkError> {
        self.flush()?;
        Ok((self.calls, self.ns))
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        let pages = std::mem::replace(&mut self.waiting, PageRange::new(0, 0));
        if pages.is_empty() {
            return Ok(());
        }
        let mut runs: Vec<HostRun<'_>> = Vec::new();
        let mut rest = pages;
        while !rest.is_empty() {
            let run = self.source.host_run(rest);
            let run = run.filter(|run| run.len_bytes() as u64 >= snapshot_format::PAGE_BYTES);
            let Some(run) = run else {
                // The mapping went away between two questions.
                return self.copy_out(rest, &runs, pages.start);
            };
            let count = run.len_bytes() as u64 / snapshot_format::PAGE_BYTES;
            rest = PageRange::new(rest.start.0 + count, rest.count.saturating_sub(count));
            runs.push(run);
        }
        let offset = offset_of(pages.start);
        self.timed(|file| file.write_runs_at(offset, &runs).map_err(SinkError::from))
    }

    /// Writes `runs` from `start` on, then `rest` through a copy.
    fn copy_out(
        &mut self,
        rest: PageRange,
        runs: &[HostRun<'_>],
        start: PageIndex,
    ) -> Result<(), SinkError> {
        let len = rest.len_bytes().and_then(|len| usize::try_from(len).ok());
        let mut copy = vec![0; len.unwrap_or(0)];
        self.source.read_pages(rest, &mut copy)?;
        if !runs.is_empty() {
            let offset = offset_of(start);
            self.timed(|file| file.write_runs_at(offset, runs).map_err(SinkError::from))?;
        }
        let offset = offset_of(rest.start);
        self.timed(|file| file.write_all_at(offset, &copy).map_err(SinkError::from))
    }

    fn timed(
        &mut self,
        write: impl FnOnce(&mut StagedFile) -> Result<(), SinkError>,
    ) -> Result<(), SinkError> {
        let started = Instant::now();
        let result = write(self.file);
        self.calls += 1;
        self.ns = self
            .ns
            .saturating_add(u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX));
        result
    }
}

/// The offset of a page that a layout holds: below 2^52.
fn offset_of(page: PageIndex) -> u64 {
    page.image_offset().unwrap_or(u64::MAX)
}
