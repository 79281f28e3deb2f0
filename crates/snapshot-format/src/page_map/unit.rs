//! Digest units: which pages one digest covers.

use crate::address::{GuestPage, PAGE_BYTES, PageRange};
use crate::layout::MemoryLayout;

impl MemoryLayout {
    /// The pages that share a digest with `page`: all memory of its group of `unit_pages` guest
    /// pages, a power of two, aligned to its size. `None` if the group holds no memory.
    ///
    /// They are given as image pages, among which they are contiguous, also where the group spans
    /// the hole between two regions: in sparse data they lie back to back.
    #[must_use]
    pub fn unit(&self, page: GuestPage, unit_pages: u16) -> Option<PageRange> {
        let size = u64::from(unit_pages.max(1));
        let group = page.0 / size * size;
        let mut image_first = 0;
        let mut unit: Option<PageRange> = None;
        for region in self.regions() {
            let first = region.start.page().0;
            let count = region.len_bytes / PAGE_BYTES;
            let from = group.max(first);
            let to = (group + size).min(first + count);
            if from < to {
                let start = image_first + (from - first);
                let run = unit.get_or_insert_with(|| PageRange::new(start, 0));
                run.count += to - from;
            }
            image_first += count;
        }
        unit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::GuestAddress;
    use crate::layout::MemoryRegion;

    #[test]
    fn a_unit_is_all_memory_of_an_aligned_group() {
        let pages = |start: u64, count: u64| MemoryRegion {
            start: GuestAddress(start * PAGE_BYTES),
            len_bytes: count * PAGE_BYTES,
        };
        // Pages 3 to 9, 12 and 13, and 40 on.
        let layout = MemoryLayout::new(vec![pages(3, 7), pages(12, 2), pages(40, 100)]).unwrap();
        let unit = |page, unit_pages| layout.unit(GuestPage(page), unit_pages);
        assert_eq!(unit(5, 1), Some(PageRange::new(2, 1)));
        assert_eq!(unit(5, 16), Some(PageRange::new(0, 9)));
        assert_eq!(unit(12, 8), Some(PageRange::new(5, 4)));
        assert_eq!(unit(20, 16), None);
        assert_eq!(unit(47, 16), Some(PageRange::new(9, 8)));
    }
}
