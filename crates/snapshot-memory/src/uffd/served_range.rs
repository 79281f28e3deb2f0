//! Which addresses hold which pages.

use std::ops::Range;

use snapshot_format::{PAGE_BYTES, PageIndex, PageRange};

use crate::source::GuestMemorySource;

/// A run of image pages that is contiguous in an address space: this process's own, or that of
/// whoever sent a userfaultfd.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServedRange {
    /// The addresses, on page boundaries.
    pub addresses: Range<u64>,
    /// The page of the image at the first of them.
    pub first: PageIndex,
}

impl ServedRange {
    /// Where all of `memory` is mapped in this process; `None`: part of it is not.
    #[must_use]
    pub fn of(memory: &dyn GuestMemorySource) -> Option<Vec<Self>> {
        let mut ranges: Vec<Self> = Vec::new();
        let mut next = 0;
        let end = memory.layout().page_count();
        while next < end {
            let run = memory
                .host_run(PageRange::new(next, end - next))
                .filter(|run| run.len_bytes() as u64 >= PAGE_BYTES)?;
            let start = run.address().addr() as u64;
            let addresses = start..start + run.len_bytes() as u64;
            let first = PageIndex(next);
            next += run.len_bytes() as u64 / PAGE_BYTES;
            match ranges.last_mut() {
                Some(last) if last.addresses.end == addresses.start => {
                    last.addresses.end = addresses.end;
                }
                _ => ranges.push(Self { addresses, first }),
            }
        }
        Some(ranges)
    }

    /// The pages.
    #[must_use]
    pub fn pages(&self) -> PageRange {
        let len = self.addresses.end.saturating_sub(self.addresses.start);
        PageRange {
            start: self.first,
            count: len / PAGE_BYTES,
        }
    }

    /// The pages at `addresses`, cut to this range; a page of which any byte is named counts.
    pub(crate) fn pages_at(&self, addresses: &Range<u64>) -> PageRange {
        let start = addresses.start.max(self.addresses.start);
        let end = addresses.end.min(self.addresses.end);
        let before = (start.saturating_sub(self.addresses.start)) / PAGE_BYTES;
        let until = end.saturating_sub(self.addresses.start);
        PageRange {
            start: PageIndex(self.first.0 + before),
            count: until.div_ceil(PAGE_BYTES).saturating_sub(before),
        }
    }
}
