//! Learning from the kernel which pages were touched.

use std::ops::Range;

use snapshot_format::{PAGE_BYTES, PageRange, WorkingSetOrigin};

use super::error::WorkingSetError;
use super::mincore::{self, PART_BYTES};
use super::touched::TouchedPages;
use crate::backend::ReadFile;
use crate::source::{GuestMemorySource, HostRun};
use crate::uffd;

impl TouchedPages {
    /// The pages of `memory` that are present, in the order of their addresses (Linux 6.7).
    ///
    /// For memory that was brought page by page: what was filled in the background is present as
    /// well.
    pub fn present(memory: &dyn GuestMemorySource) -> Result<Self, WorkingSetError> {
        let asked = |source| WorkingSetError::Record {
            call: "scan /proc/self/pagemap",
            source,
        };
        Self::of_memory(memory, WorkingSetOrigin::Present, |run, first, touched| {
            let start = run.address().addr() as u64;
            let addresses = start..start + run.len_bytes() as u64;
            let mut add = |found: Range<u64>| {
                let page = first + (found.start - start) / PAGE_BYTES;
                touched.add(PageRange::new(page, (found.end - found.start) / PAGE_BYTES));
            };
            uffd::present_runs(&addresses, &mut add).map_err(asked)
        })
    }

    /// The pages of `memory`, private mappings of files, that the page cache has, in the order of
    /// their addresses.
    ///
    /// The cache was cold before and read ahead of nothing (`MADV_RANDOM`), or it says too much. The
    /// kernel tells whoever owns a file or may write to it; to others all pages seem to be there.
    pub fn resident(memory: &dyn GuestMemorySource) -> Result<Self, WorkingSetError> {
        let mut pages = Vec::new();
        Self::of_memory(memory, WorkingSetOrigin::Resident, |run, first, touched| {
            // A byte a page: a part at a time.
            for start in (0..run.len_bytes()).step_by(PART_BYTES) {
                let len = PART_BYTES.min(run.len_bytes() - start);
                let part = run.part(start, len);
                let asked = mincore::residency(&part, &mut pages);
                asked.map_err(|source| WorkingSetError::Record {
                    call: "mincore",
                    source,
                })?;
                touched.add_resident(first + start as u64 / PAGE_BYTES, &pages);
            }
            Ok(())
        })
    }

    /// The pages of `file`, the raw image of a snapshot of `page_count` pages, that the page cache
    /// has, in the order of their offsets; with the limits of [`resident`](Self::resident).
    pub fn resident_in(file: &dyn ReadFile, page_count: u64) -> Result<Self, WorkingSetError> {
        let asked = |call| move |source| WorkingSetError::Record { call, source };
        let len_bytes = file.len().map_err(asked("measure a file"))?;
        if page_count.checked_mul(PAGE_BYTES) != Some(len_bytes) {
            return Err(WorkingSetError::PageCount {
                expected: page_count,
                found: len_bytes / PAGE_BYTES,
            });
        }
        let mut touched = Self::new(page_count, WorkingSetOrigin::Resident);
        let len_bytes = usize::try_from(len_bytes).unwrap_or(usize::MAX);
        let mut each = |start: usize, pages: &[u8]| {
            touched.add_resident(start as u64 / PAGE_BYTES, pages);
        };
        let fd = file.as_fd().ok_or(WorkingSetError::NotMapped)?;
        mincore::residency_of_file(fd, len_bytes, &mut each).map_err(asked("mincore"))?;
        Ok(touched)
    }

    fn add_resident(&mut self, first: u64, pages: &[u8]) {
        for (page, _) in (first..).zip(pages).filter(|(_, seen)| *seen & 1 != 0) {
            self.add(PageRange::new(page, 1));
        }
    }

    fn of_memory(
        memory: &dyn GuestMemorySource,
        origin: WorkingSetOrigin,
        mut look: impl FnMut(&HostRun<'_>, u64, &mut Self) -> Result<(), WorkingSetError>,
    ) -> Result<Self, WorkingSetError> {
        let end = memory.layout().page_count();
        let mut touched = Self::new(end, origin);
        let mut next = 0;
        while next < end {
            let run = memory.host_run(PageRange::new(next, end - next));
            let run = run.filter(|run| run.len_bytes() as u64 >= PAGE_BYTES);
            let run = run.ok_or(WorkingSetError::NotMapped)?;
            look(&run, next, &mut touched)?;
            next += run.len_bytes() as u64 / PAGE_BYTES;
        }
        Ok(touched)
    }
}

#[cfg(test)]
mod tests;
