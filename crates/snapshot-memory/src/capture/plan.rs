//! Which pages are taken, in which order, cut so that each piece can be worked on apart.

use snapshot_format::{LEAF_PAGES, MemoryLayout, PAGE_BYTES, PageIndex, PageRange};

use super::choice::Choice;
use super::gaps::merged;
use crate::dirty::DirtyBitmap;
use crate::sink::Pages;

/// Pages that are worked on at once. With digest units of several pages it begins and ends with a
/// unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Part {
    /// The leaf that holds them.
    pub(super) leaf: u32,
    /// The pages, in the image.
    pub(super) pages: PageRange,
}

/// The parts of a capture, in ascending order.
pub(super) struct Plan<'a> {
    layout: &'a MemoryLayout,
    unit_pages: u16,
    parts: Box<dyn Iterator<Item = Part> + 'a>,
    /// What did not fit the last time.
    rest: Option<Part>,
}

impl<'a> Plan<'a> {
    /// All memory of `layout`, or its dirty pages with the gaps between them that are filled.
    pub(super) fn new(layout: &'a MemoryLayout, pages: Pages<'a>, choice: Choice) -> Self {
        let parts: Box<dyn Iterator<Item = Part> + 'a> = match pages {
            _ if choice.full => full_parts(layout),
            Pages::Full => full_parts(layout),
            Pages::Since { dirty, .. } => {
                return Self::of_dirty(layout, dirty, choice);
            }
        };
        Self {
            layout,
            unit_pages: choice.unit_pages,
            parts,
            rest: None,
        }
    }

    /// The dirty pages of `layout` with the gaps between them that are filled.
    pub(super) fn of_dirty(
        layout: &'a MemoryLayout,
        dirty: &'a DirtyBitmap,
        choice: Choice,
    ) -> Self {
        let runs = merged(dirty.iter_runs(), choice.gap_pages);
        Self {
            layout,
            unit_pages: choice.unit_pages,
            parts: Box::new(parts_of(layout, runs)),
            rest: None,
        }
    }

    /// The next parts, of `limit` pages in all at most; none at the end. `limit` holds a unit.
    pub(super) fn next_parts(&mut self, limit: u64) -> Vec<Part> {
        let mut taken = Vec::new();
        let mut room = limit;
        while room > 0 {
            let Some(part) = self.rest.take().or_else(|| self.parts.next()) else {
                break;
            };
            let count = self.fitting(part.pages, room);
            let (now, later) = cut(part, count);
            room -= now.pages.count;
            if !now.pages.is_empty() {
                taken.push(now);
            }
            if !later.pages.is_empty() {
                self.rest = Some(later);
                break;
            }
        }
        taken
    }

    /// How many of `pages` fit `room`, cut where a unit ends.
    fn fitting(&self, pages: PageRange, room: u64) -> u64 {
        if pages.count <= room {
            return pages.count;
        }
        let next = PageIndex(pages.start.0 + room);
        let guest = self.layout.guest_page(next);
        let unit = guest.and_then(|page| self.layout.unit(page, self.unit_pages));
        unit.map_or(room, |unit| unit.start.0.saturating_sub(pages.start.0))
    }
}

/// The parts of runs of image pages.
pub(super) fn parts_of(
    layout: &MemoryLayout,
    runs: impl Iterator<Item = PageRange>,
) -> impl Iterator<Item = Part> {
    let runs = runs.flat_map(|run| layout.runs(run));
    runs.flat_map(|(guest, run)| by_leaf(guest.0, run))
}

fn full_parts<'a>(layout: &'a MemoryLayout) -> Box<dyn Iterator<Item = Part> + 'a> {
    let leaves = layout.leaves().into_iter();
    Box::new(leaves.map(|leaf| Part {
        leaf,
        pages: leaf_range(layout, leaf),
    }))
}

fn cut(part: Part, count: u64) -> (Part, Part) {
    let Part { leaf, pages } = part;
    let first = PageRange::new(pages.start.0, count);
    let second = PageRange::new(pages.start.0 + count, pages.count - count);
    (
        Part { leaf, pages: first },
        Part {
            leaf,
            pages: second,
        },
    )
}

/// The parts of a run of image pages that lie in one leaf each; `guest` is the first guest page.
fn by_leaf(guest: u64, run: PageRange) -> impl Iterator<Item = Part> {
    let leaf_pages = LEAF_PAGES as u64;
    let first = guest / leaf_pages;
    let last = guest + run.count;
    (first..last.div_ceil(leaf_pages)).map(move |leaf| {
        let from = guest.max(leaf * leaf_pages);
        let to = last.min((leaf + 1) * leaf_pages);
        let start = run.start.0 + (from - guest);
        Part {
            // Guest pages lie below 2^40, leaves below 2^26.
            leaf: u32::try_from(leaf).unwrap_or(u32::MAX),
            pages: PageRange::new(start, to - from),
        }
    })
}

/// The image pages of a leaf: contiguous, whatever gaps guest memory has.
fn leaf_range(layout: &MemoryLayout, number: u32) -> PageRange {
    let from = u64::from(number) * LEAF_PAGES as u64;
    let to = from + LEAF_PAGES as u64;
    let mut first = 0;
    let mut range: Option<PageRange> = None;
    for region in layout.regions() {
        let start = region.start.page().0;
        let count = region.len_bytes / PAGE_BYTES;
        let (a, b) = (from.max(start), to.min(start + count));
        if a < b {
            let range = range.get_or_insert(PageRange {
                start: PageIndex(first + (a - start)),
                count: 0,
            });
            range.count += b - a;
        }
        first += count;
    }
    range.unwrap_or(PageRange::new(0, 0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use snapshot_format::{
        DataLayout, Digest, GuestAddress, MemoryRegion, SnapshotId, SnapshotRef,
    };

    use super::*;
    use crate::capture::Dedup;

    fn layout() -> MemoryLayout {
        let region = |page: u64, count: u64| MemoryRegion {
            start: GuestAddress(page * PAGE_BYTES),
            len_bytes: count * PAGE_BYTES,
        };
        // A hole within a unit, one at the end of a leaf, and a region that begins within a unit.
        MemoryLayout::new(vec![
            region(3, 1000),
            region(1007, 20_000),
            region(40_005, 9),
        ])
        .unwrap()
    }

    fn choice(full: bool, unit_pages: u16) -> Choice {
        Choice {
            full,
            data_layout: DataLayout::Sparse,
            unit_pages,
            gap_pages: 0,
            dedup: Dedup::Off,
            in_place: false,
            threads: 1,
            page_count: 0,
            chunk_pages: 512,
        }
    }

    proptest! {
        #[test]
        fn parts_hold_every_page_once_and_no_unit_in_two(
            limit in 16u64..600,
            runs in proptest::collection::vec((0u64..21_009, 1u64..700), 0..20),
            full in any::<bool>(),
        ) {
            let layout = layout();
            let dirty = DirtyBitmap::new(layout.page_count());
            for (start, count) in runs {
                dirty.set_range(PageRange::new(start, count.min(21_009 - start)));
            }
            let base = SnapshotRef { id: SnapshotId([1; 16]), digest: Digest::of(b"") };
            let (pages, unit) = if full {
                (Pages::Full, 16)
            } else {
                (Pages::Since { base, dirty: &dirty }, 1)
            };
            let mut plan = Plan::new(&layout, pages, choice(full, unit));
            let seen = DirtyBitmap::new(layout.page_count());
            let mut last = 0;
            loop {
                let parts = plan.next_parts(limit);
                if parts.is_empty() { break; }
                prop_assert!(parts.iter().map(|part| part.pages.count).sum::<u64>() <= limit);
                for part in parts {
                    prop_assert!(part.pages.start.0 >= last);
                    last = part.pages.end().0;
                    seen.set_range(part.pages);
                    for (guest, run) in layout.runs(part.pages) {
                        prop_assert_eq!(guest.0 / LEAF_PAGES as u64, u64::from(part.leaf));
                        prop_assert_eq!((guest.0 + run.count - 1) / LEAF_PAGES as u64, u64::from(part.leaf));
                    }
                    let first = layout.guest_page(part.pages.start).unwrap();
                    prop_assert_eq!(layout.unit(first, unit).unwrap().start, part.pages.start);
                }
            }
            let expected = if full { layout.page_count() } else { dirty.count() };
            prop_assert_eq!(seen.count(), expected);
        }
    }
}
