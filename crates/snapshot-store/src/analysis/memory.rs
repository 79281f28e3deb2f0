//! Which pages differ between two memories.

use std::ops::ControlFlow;

use serde::Serialize;
use snapshot_format::{GuestAddress, PAGE_BYTES, PageIndex, PageRange, SnapshotId};
use snapshot_memory::{Extent, ImageError, MemoryImage, is_zero};

/// Pages by what became of them from one memory to the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct PageCountsBy {
    /// Every byte is the same.
    pub same: u64,
    /// Neither is zero, and they differ.
    pub changed: u64,
    /// It had bytes, and is zero.
    pub became_zero: u64,
    /// It was zero, and has bytes.
    pub became_data: u64,
    /// The first memory does not have it.
    pub added: u64,
    /// The second memory does not have it.
    pub removed: u64,
}

/// What became of a part of guest memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct RegionDifference {
    /// Its first address.
    pub start: GuestAddress,
    /// Its pages, each of which is counted once.
    pub pages: u64,
    /// What became of them.
    #[serde(flatten)]
    pub counts: PageCountsBy,
    /// Bytes that differ, of pages that both memories have.
    pub differing_bytes: u64,
}

/// What became of a whole memory.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct MemoryDifference {
    /// All pages of both memories.
    #[serde(flatten)]
    pub counts: PageCountsBy,
    /// Bytes that differ, of pages that both memories have.
    pub differing_bytes: u64,
    /// Pages that had to be read, because they lie in different data files.
    pub compared_pages: u64,
    /// The regions of the second memory, then what the first one alone has.
    pub regions: Vec<RegionDifference>,
}

/// Two memories, and what is known of their difference so far.
struct Comparison<'a> {
    before: &'a MemoryImage,
    after: &'a MemoryImage,
    buffers: (Vec<u8>, Vec<u8>),
    compared_pages: u64,
    tell: &'a mut dyn FnMut(u64) -> ControlFlow<()>,
}

const PAGE: usize = 4096;
const CHUNK_PAGES: u64 = 256;

impl MemoryDifference {
    /// Compares two memories, each page that is compared checked against its digest. `tell` is
    /// given the pages that are done; where it breaks, there is no result.
    pub(super) fn of(
        before: &MemoryImage,
        after: &MemoryImage,
        tell: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Option<Self>, ImageError> {
        let chunk = vec![0; PAGE * 256];
        let mut comparison = Comparison {
            before,
            after,
            buffers: (chunk.clone(), chunk),
            compared_pages: 0,
            tell,
        };
        let mut regions = Vec::new();
        let mut start = 0;
        for region in after.layout().regions() {
            let pages = PageRange::new(start, region.len_bytes / PAGE_BYTES);
            start = pages.end().0;
            let mut counted = RegionDifference::of(region.start, pages.count);
            if comparison.region(pages, &mut counted)?.is_break() {
                return Ok(None);
            }
            regions.push(counted);
        }
        for pages in before.layout().pages_not_in(after.layout()) {
            for (guest, run) in before.layout().runs(pages) {
                let start = guest.address().unwrap_or_default();
                let mut counted = RegionDifference::of(start, run.count);
                counted.counts.removed = run.count;
                regions.push(counted);
            }
        }
        Ok(Some(Self {
            counts: regions
                .iter()
                .fold(PageCountsBy::default(), |sum, one| sum.and(one.counts)),
            differing_bytes: regions.iter().map(|region| region.differing_bytes).sum(),
            compared_pages: comparison.compared_pages,
            regions,
        }))
    }
}

impl RegionDifference {
    fn of(start: GuestAddress, pages: u64) -> Self {
        Self {
            start,
            pages,
            counts: PageCountsBy::default(),
            differing_bytes: 0,
        }
    }
}

impl PageCountsBy {
    /// The sum of both.
    fn and(self, other: Self) -> Self {
        Self {
            same: self.same + other.same,
            changed: self.changed + other.changed,
            became_zero: self.became_zero + other.became_zero,
            became_data: self.became_data + other.became_data,
            added: self.added + other.added,
            removed: self.removed + other.removed,
        }
    }
}

impl Comparison<'_> {
    /// Counts the pages of one region of the second memory.
    fn region(
        &mut self,
        pages: PageRange,
        counted: &mut RegionDifference,
    ) -> Result<ControlFlow<()>, ImageError> {
        let shared = self.after.layout().shared_runs(self.before.layout());
        let mut both = 0;
        for run in shared {
            // A shared run lies within one region of each.
            if run.pages.start.0 < pages.start.0 || run.pages.end().0 > pages.end().0 {
                continue;
            }
            both += run.pages.count;
            if self.run(run.pages, run.other, counted)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        counted.counts.added = pages.count - both;
        Ok((self.tell)(counted.counts.added))
    }

    /// Counts pages that both memories have: `pages` of the second, those from `other` on of the
    /// first.
    fn run(
        &mut self,
        pages: PageRange,
        other: PageIndex,
        counted: &mut RegionDifference,
    ) -> Result<ControlFlow<()>, ImageError> {
        let mut done = 0;
        while done < pages.count {
            let left = pages.count - done;
            let new = self
                .after
                .extent(PageRange::new(pages.start.0 + done, left))?;
            let old = self.before.extent(PageRange::new(other.0 + done, left))?;
            let count = new.pages.count.min(old.pages.count).max(1);
            let count = if owner(self.after, new) == owner(self.before, old) {
                counted.counts.same += count;
                count
            } else {
                let count = count.min(CHUNK_PAGES);
                self.compare(new, old, count, counted)?;
                count
            };
            done += count;
            if (self.tell)(count).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Reads `count` pages of both, and compares them.
    fn compare(
        &mut self,
        new: Extent,
        old: Extent,
        count: u64,
        counted: &mut RegionDifference,
    ) -> Result<(), ImageError> {
        let len = usize::try_from(count).unwrap_or(0) * PAGE;
        let (before, after) = &mut self.buffers;
        let (before, after) = (
            before.get_mut(..len).unwrap_or_default(),
            after.get_mut(..len).unwrap_or_default(),
        );
        self.before
            .read_pages(PageRange::new(old.pages.start.0, count), before)?;
        self.after
            .read_pages(PageRange::new(new.pages.start.0, count), after)?;
        self.compared_pages += count;
        for (before, after) in before.chunks_exact(PAGE).zip(after.chunks_exact(PAGE)) {
            let differing = before
                .iter()
                .zip(after)
                .filter(|(old, new)| old != new)
                .count();
            let counts = &mut counted.counts;
            *match (differing, is_zero(before), is_zero(after)) {
                (0, _, _) => &mut counts.same,
                (_, true, _) => &mut counts.became_data,
                (_, _, true) => &mut counts.became_zero,
                _ => &mut counts.changed,
            } += 1;
            counted.differing_bytes += differing as u64;
        }
        Ok(())
    }
}

/// The snapshot whose own pages these are; `None` where they are zero. All data files of one
/// snapshot hold the same pages.
fn owner(image: &MemoryImage, extent: Extent) -> Option<SnapshotId> {
    let place = usize::from(extent.file?).checked_sub(1)?;
    image.references().get(place).map(|data| data.snapshot)
}
