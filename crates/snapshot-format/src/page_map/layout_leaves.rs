//! Which leaves of a page map a memory layout touches.

use crate::address::PAGE_BYTES;
use crate::layout::MemoryLayout;
use crate::page_map::{LEAF_PAGES, LEAF_SHIFT, PageBits};

impl MemoryLayout {
    /// The numbers of the leaves that hold memory, ascending.
    #[must_use]
    pub fn leaves(&self) -> Vec<u32> {
        let mut leaves: Vec<u32> = Vec::new();
        for region in self.regions() {
            let first = region.start.page().0 >> LEAF_SHIFT;
            let pages = region.start.page().0 + region.len_bytes / PAGE_BYTES;
            let end = pages.div_ceil(LEAF_PAGES as u64);
            let numbers = (first..end).filter_map(|number| u32::try_from(number).ok());
            let last = leaves.last().copied();
            leaves.extend(numbers.filter(|number| last.is_none_or(|last| last < *number)));
        }
        leaves
    }

    /// Which pages of leaf `number` are memory.
    #[must_use]
    pub fn leaf_pages(&self, number: u32) -> PageBits {
        let mut bits = PageBits::new();
        let base = u64::from(number) << LEAF_SHIFT;
        for region in self.regions() {
            let start = region.start.page().0;
            let from = start.max(base);
            let to = (start + region.len_bytes / PAGE_BYTES).min(base + LEAF_PAGES as u64);
            if let (true, Ok(within), Ok(count)) = (
                from < to,
                usize::try_from(from - base),
                usize::try_from(to.saturating_sub(from)),
            ) {
                bits.insert(within, count);
            }
        }
        bits
    }
}
