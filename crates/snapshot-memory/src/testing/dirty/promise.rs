//! What a source says of itself, and whether what it names keeps to it.

use snapshot_format::{GuestPage, MemoryLayout, PAGE_BYTES, PageIndex, PageRange};

use crate::dirty::{BlindSpots, DirtyBitmap, DirtyGuarantee, DirtySource};

/// What a source says of itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Promise {
    pub(super) name: &'static str,
    pub(super) guarantee: DirtyGuarantee,
    pub(super) granule_bytes: u64,
}

impl Promise {
    /// What `source` says, if it makes sense.
    pub(super) fn of(source: &dyn DirtySource) -> Self {
        let (name, granule_bytes) = (source.name(), source.granule_bytes());
        assert!(!name.is_empty(), "a source has a name");
        assert!(
            granule_bytes.is_power_of_two() && granule_bytes >= PAGE_BYTES,
            "{name}: a granule of {granule_bytes} bytes"
        );
        assert_ne!(
            source.blind_spots(),
            BlindSpots::ALL,
            "{name}: a source sees somebody"
        );
        Self {
            name,
            guarantee: source.guarantee(),
            granule_bytes,
        }
    }

    /// The pages that are named for writes to `pages`: whole granules of guest memory.
    pub(super) fn named(&self, layout: &MemoryLayout, pages: &[u64]) -> DirtyBitmap {
        let named = DirtyBitmap::new(layout.page_count());
        let granule = self.granule_bytes / PAGE_BYTES;
        for &page in pages {
            let guest = layout.guest_page(PageIndex(page));
            let first = guest.map_or(0, |guest| guest.0 / granule * granule);
            let inside = (first..first + granule).map(GuestPage);
            let inside = inside.filter_map(|page| layout.image_page(page));
            inside.for_each(|page| named.set(page));
        }
        named
    }

    /// Holds what was found against what was written.
    pub(super) fn check(&self, layout: &MemoryLayout, found: &DirtyBitmap, pages: &[u64]) {
        self.check_bits(found, &self.named(layout, pages));
    }

    /// Holds what was found against what must be named.
    pub(super) fn check_bits(&self, found: &DirtyBitmap, expected: &DirtyBitmap) {
        let name = self.name;
        let wanted = expected.iter_runs().flat_map(pages_of);
        let lost: Vec<_> = wanted.filter(|page| !found.is_set(*page)).collect();
        assert!(lost.is_empty(), "{name}: writes to {lost:?} are lost");
        if self.guarantee == DirtyGuarantee::Exact {
            let named = found.iter_runs().flat_map(pages_of);
            let more: Vec<_> = named.filter(|page| !expected.is_set(*page)).collect();
            assert!(more.is_empty(), "{name}: nobody wrote to {more:?}");
        }
    }
}

fn pages_of(run: PageRange) -> impl Iterator<Item = PageIndex> {
    (run.start.0..run.end().0).map(PageIndex)
}
