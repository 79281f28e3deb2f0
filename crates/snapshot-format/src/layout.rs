//! Which guest physical addresses are memory, and how they lie in the raw image.

use serde::{Deserialize, Serialize};

use crate::address::{GuestAddress, GuestPage, PAGE_BYTES, PageIndex, PageRange};
use crate::limits;
use crate::page_map::LEAF_SHIFT;

/// One run of guest physical addresses that is memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct MemoryRegion {
    /// The first address; a multiple of [`PAGE_BYTES`].
    pub start: GuestAddress,
    /// The length in bytes; a multiple of [`PAGE_BYTES`], not zero.
    pub len_bytes: u64,
}

/// The memory of a guest: regions sorted by address, without overlap, at least one.
///
/// The raw image is the regions concatenated in this order; what Firecracker calls a memory file.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(transparent)]
pub struct MemoryLayout {
    regions: Vec<MemoryRegion>,
}

/// A layout that breaks one of its rules.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// No region at all.
    #[error("a memory layout needs at least one region")]
    Empty,
    /// More regions than a layout may hold.
    #[error("{found} memory regions, at most {limit} are allowed")]
    TooManyRegions {
        /// How many were given.
        found: usize,
        /// The cap.
        limit: usize,
    },
    /// An address or a length that is no multiple of the page, or a length of zero.
    #[error(
        "region {index} at {start} of {len_bytes} bytes: address and length must be multiples of \
         4096, and the length not zero"
    )]
    Unaligned {
        /// Which region.
        index: usize,
        /// Its address.
        start: GuestAddress,
        /// Its length in bytes.
        len_bytes: u64,
    },
    /// A region that ends beyond the largest guest physical address.
    #[error("region {index} at {start} of {len_bytes} bytes ends beyond the guest address limit")]
    BeyondAddressSpace {
        /// Which region.
        index: usize,
        /// Its address.
        start: GuestAddress,
        /// Its length in bytes.
        len_bytes: u64,
    },
    /// Regions that touch more leaves of a page map than a table may name.
    #[error("the regions touch {found} leaves of 64 MiB, at most {limit} are allowed")]
    TooManyLeaves {
        /// How many leaves.
        found: u64,
        /// The cap.
        limit: usize,
    },
    /// Regions out of order, or overlapping.
    #[error("region {index} at {start} is out of order or overlaps the one before it")]
    OutOfOrder {
        /// Which region.
        index: usize,
        /// Its address.
        start: GuestAddress,
    },
}

impl MemoryLayout {
    /// Checks the regions and makes a layout of them.
    pub fn new(regions: Vec<MemoryRegion>) -> Result<Self, LayoutError> {
        if regions.is_empty() {
            return Err(LayoutError::Empty);
        }
        if regions.len() > limits::MAX_REGIONS {
            return Err(LayoutError::TooManyRegions {
                found: regions.len(),
                limit: limits::MAX_REGIONS,
            });
        }
        let mut free_from = 0;
        for (index, &MemoryRegion { start, len_bytes }) in regions.iter().enumerate() {
            if !start.is_page_aligned() || !len_bytes.is_multiple_of(PAGE_BYTES) || len_bytes == 0 {
                return Err(LayoutError::Unaligned {
                    index,
                    start,
                    len_bytes,
                });
            }
            if start.0 < free_from {
                return Err(LayoutError::OutOfOrder { index, start });
            }
            free_from = match start.0.checked_add(len_bytes) {
                Some(end) if end <= limits::MAX_GUEST_ADDRESS => end,
                _ => {
                    return Err(LayoutError::BeyondAddressSpace {
                        index,
                        start,
                        len_bytes,
                    });
                }
            };
        }
        let found = leaf_count(&regions);
        if found > limits::MAX_LEAVES as u64 {
            return Err(LayoutError::TooManyLeaves {
                found,
                limit: limits::MAX_LEAVES,
            });
        }
        Ok(Self { regions })
    }

    /// One region from address 0.
    pub fn single(len_bytes: u64) -> Result<Self, LayoutError> {
        Self::new(vec![MemoryRegion {
            start: GuestAddress(0),
            len_bytes,
        }])
    }

    /// The regions in the order of their addresses.
    #[must_use]
    pub fn regions(&self) -> &[MemoryRegion] {
        &self.regions
    }

    /// Pages in all regions.
    #[must_use]
    pub fn page_count(&self) -> u64 {
        self.regions.iter().map(|r| r.len_bytes / PAGE_BYTES).sum()
    }

    /// Bytes in all regions: the length of the raw image.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.regions.iter().map(|r| r.len_bytes).sum()
    }

    /// Where `page` lies in the image; `None` where there is no memory.
    #[must_use]
    pub fn image_page(&self, page: GuestPage) -> Option<PageIndex> {
        let mut first = 0;
        for region in &self.regions {
            let count = region.len_bytes / PAGE_BYTES;
            if let Some(within) = page.0.checked_sub(region.start.page().0) {
                if within < count {
                    return Some(PageIndex(first + within));
                }
            } else {
                return None;
            }
            first += count;
        }
        None
    }

    /// Which guest page the image page `index` is; `None` beyond the end.
    #[must_use]
    pub fn guest_page(&self, index: PageIndex) -> Option<GuestPage> {
        let mut rest = index.0;
        for region in &self.regions {
            let count = region.len_bytes / PAGE_BYTES;
            if rest < count {
                return Some(GuestPage(region.start.page().0 + rest));
            }
            rest -= count;
        }
        None
    }

    /// The parts of `range` that are contiguous in guest physical memory, in order.
    ///
    /// Pages of `range` beyond the end of the image are left out.
    pub fn runs(&self, range: PageRange) -> impl Iterator<Item = (GuestPage, PageRange)> + '_ {
        let mut first = 0;
        self.regions.iter().filter_map(move |region| {
            let region_first = first;
            let count = region.len_bytes / PAGE_BYTES;
            first += count;
            let from = range.start.0.max(region_first);
            let to = range.end().0.min(region_first + count);
            (from < to).then(|| {
                let guest = GuestPage(region.start.page().0 + (from - region_first));
                (guest, PageRange::new(from, to - from))
            })
        })
    }
}

/// How many leaves sorted regions touch.
fn leaf_count(regions: &[MemoryRegion]) -> u64 {
    let leaf_bytes = PAGE_BYTES << LEAF_SHIFT;
    let (mut count, mut free_from) = (0, 0);
    for region in regions {
        let first = (region.start.0 / leaf_bytes).max(free_from);
        let end = (region.start.0 + region.len_bytes).div_ceil(leaf_bytes);
        count += end.saturating_sub(first);
        free_from = end;
    }
    count
}

impl<'de> Deserialize<'de> for MemoryLayout {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let regions = Vec::deserialize(deserializer)?;
        Self::new(regions).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn split() -> MemoryLayout {
        MemoryLayout::new(vec![
            MemoryRegion {
                start: GuestAddress(0),
                len_bytes: 3 * GIB,
            },
            MemoryRegion {
                start: GuestAddress(4 * GIB),
                len_bytes: GIB,
            },
        ])
        .unwrap()
    }

    #[test]
    fn pages_convert_both_ways_across_the_hole_below_4_gib() {
        let layout = split();
        let per_gib = GIB / PAGE_BYTES;
        assert_eq!(
            layout.image_page(GuestPage(4 * per_gib)),
            Some(PageIndex(3 * per_gib))
        );
        assert_eq!(
            layout.guest_page(PageIndex(3 * per_gib)),
            Some(GuestPage(4 * per_gib))
        );
        assert_eq!(layout.image_page(GuestPage(3 * per_gib)), None);
        assert_eq!(layout.image_page(GuestPage(5 * per_gib)), None);
        assert_eq!(layout.guest_page(PageIndex(4 * per_gib)), None);
    }

    #[test]
    fn a_range_is_cut_where_guest_memory_is_not_contiguous() {
        let layout = split();
        let per_gib = GIB / PAGE_BYTES;
        let runs: Vec<_> = layout.runs(PageRange::new(3 * per_gib - 1, 2)).collect();
        assert_eq!(
            runs,
            [
                (
                    GuestPage(3 * per_gib - 1),
                    PageRange::new(3 * per_gib - 1, 1)
                ),
                (GuestPage(4 * per_gib), PageRange::new(3 * per_gib, 1)),
            ]
        );
    }

    #[test]
    fn broken_layouts_are_refused() {
        let region = |start, len_bytes| MemoryRegion {
            start: GuestAddress(start),
            len_bytes,
        };
        let cases = [
            (vec![], "at least one"),
            (vec![region(1, 4096)], "multiples"),
            (vec![region(0, 0)], "multiples"),
            (vec![region(0, 8192), region(4096, 4096)], "overlaps"),
            (vec![region(8192, 4096), region(0, 4096)], "overlaps"),
            (vec![region(u64::MAX - 4095, 4096)], "beyond"),
            (vec![region(0, 1 << 50)], "leaves"),
        ];
        for (regions, expected) in cases {
            let error = MemoryLayout::new(regions).unwrap_err().to_string();
            assert!(
                error.contains(expected),
                "{error:?} does not say {expected:?}"
            );
        }
    }
}
