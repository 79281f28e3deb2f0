//! What two memory layouts have in common, by guest page number.

use crate::address::{GuestPage, PAGE_BYTES, PageIndex, PageRange};
use crate::layout::MemoryLayout;

/// A run of guest pages that are memory in two layouts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SharedRun {
    /// The first of them.
    pub guest: GuestPage,
    /// Where they lie in the image of the one layout.
    pub pages: PageRange,
    /// Where the first of them lies in the image of the other.
    pub other: PageIndex,
}

/// One region: its first guest page, its first image page, and how many pages it has.
#[derive(Clone, Copy, Debug)]
struct Placed {
    guest: u64,
    image: u64,
    count: u64,
}

impl MemoryLayout {
    /// The guest pages that are memory in both layouts, ascending; within one region of each.
    #[must_use]
    pub fn shared_runs(&self, other: &Self) -> Vec<SharedRun> {
        let mut shared = Vec::new();
        let mut theirs = placed(other).peekable();
        for mine in placed(self) {
            while let Some(&their) = theirs.peek() {
                let from = mine.guest.max(their.guest);
                let to = (mine.guest + mine.count).min(their.guest + their.count);
                if from < to {
                    shared.push(SharedRun {
                        guest: GuestPage(from),
                        pages: PageRange::new(mine.image + (from - mine.guest), to - from),
                        other: PageIndex(their.image + (from - their.guest)),
                    });
                }
                if their.guest + their.count > mine.guest + mine.count {
                    break;
                }
                theirs.next();
            }
        }
        shared
    }

    /// The pages of this layout's image that are no memory in `other`, ascending.
    #[must_use]
    pub fn pages_not_in(&self, other: &Self) -> Vec<PageRange> {
        let mut missing = Vec::new();
        let mut next = 0;
        let end = PageRange::new(self.page_count(), 0);
        let shared = self.shared_runs(other).into_iter().map(|run| run.pages);
        for run in shared.chain([end]) {
            if run.start.0 > next {
                missing.push(PageRange::new(next, run.start.0 - next));
            }
            next = run.end().0;
        }
        missing
    }
}

fn placed(layout: &MemoryLayout) -> impl Iterator<Item = Placed> + '_ {
    let mut image = 0;
    layout.regions().iter().map(move |region| {
        let count = region.len_bytes / PAGE_BYTES;
        let placed = Placed {
            guest: region.start.page().0,
            image,
            count,
        };
        image += count;
        placed
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::address::GuestAddress;
    use crate::layout::MemoryRegion;

    /// Regions of a page or more, with or without gaps between.
    fn any_layout() -> impl Strategy<Value = MemoryLayout> {
        proptest::collection::vec((0u64..4, 1u64..6), 1..7).prop_map(|parts| {
            let mut free_from = 0;
            let regions = parts.into_iter().map(|(gap, pages)| {
                let start = free_from + gap;
                free_from = start + pages;
                MemoryRegion {
                    start: GuestAddress(start * PAGE_BYTES),
                    len_bytes: pages * PAGE_BYTES,
                }
            });
            MemoryLayout::new(regions.collect()).unwrap()
        })
    }

    proptest! {
        #[test]
        fn shared_and_missing_pages_are_those_that_a_look_at_each_page_gives(
            layout in any_layout(),
            other in any_layout(),
        ) {
            let mut expected = Vec::new();
            let mut missing = Vec::new();
            for index in 0..layout.page_count() {
                let guest = layout.guest_page(PageIndex(index)).unwrap();
                match other.image_page(guest) {
                    Some(there) => expected.push((guest, index, there.0)),
                    None => missing.push(index),
                }
            }
            let mut found = Vec::new();
            for run in layout.shared_runs(&other) {
                for page in 0..run.pages.count {
                    let guest = GuestPage(run.guest.0 + page);
                    found.push((guest, run.pages.start.0 + page, run.other.0 + page));
                }
            }
            prop_assert_eq!(found, expected);
            let not_in = layout.pages_not_in(&other).into_iter();
            let not_in: Vec<u64> = not_in.flat_map(|run| run.start.0..run.end().0).collect();
            prop_assert_eq!(not_in, missing);
        }
    }
}
