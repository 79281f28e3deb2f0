//! Pages that a replay leaves out, so that it shows whether the guest still touches them.

use std::error::Error;
use std::hash::{BuildHasher, RandomState};

use snapshot_format::{PAGE_BYTES, PageIndex, PageRange};

use super::target::PageTarget;

/// A sample of an image: one block of 16 pages in 16, by a number.
///
/// A page that a replay has put in place tells nobody whether the guest touches it. Those of the
/// sample are left for faults to bring, which a trace has; so a working set loses what is no longer
/// touched. With another number each time, every page has its turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HoldBack {
    seed: u64,
}

impl HoldBack {
    /// Pages of a block, which lies on a multiple of their number: the window of a server.
    pub const BLOCK_PAGES: u64 = 16;

    /// One block in so many is left out.
    pub const ONE_IN: u64 = 16;

    /// The sample of this number.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// Any sample.
    #[must_use]
    pub fn random() -> Self {
        Self::new(RandomState::new().hash_one(Self::ONE_IN))
    }

    /// Whether a page is in the sample.
    #[must_use]
    pub const fn holds(self, page: PageIndex) -> bool {
        mix(self.seed ^ mix(page.0 / Self::BLOCK_PAGES)).is_multiple_of(Self::ONE_IN)
    }

    /// A target that hands all pages on to `target` but those of the sample.
    #[must_use]
    pub fn without(self, target: &dyn PageTarget) -> impl PageTarget {
        Sampled {
            target,
            hold_back: self,
        }
    }

    /// The runs of `pages` that are not in the sample.
    fn others(self, pages: PageRange) -> impl Iterator<Item = PageRange> {
        let mut next = pages.start.0;
        std::iter::from_fn(move || {
            let block_end = |page: u64| (page / Self::BLOCK_PAGES + 1) * Self::BLOCK_PAGES;
            while next < pages.end().0 && self.holds(PageIndex(next)) {
                next = block_end(next);
            }
            let start = next;
            while next < pages.end().0 && !self.holds(PageIndex(next)) {
                next = block_end(next);
            }
            let end = next.min(pages.end().0);
            (start < end).then(|| PageRange::new(start, end - start))
        })
    }
}

/// Spreads the bits of a number: the last step of `SplitMix64`.
const fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// A target that gets all pages but those of a sample.
#[derive(Clone, Copy)]
struct Sampled<'t> {
    target: &'t dyn PageTarget,
    hold_back: HoldBack,
}

impl PageTarget for Sampled<'_> {
    fn page_count(&self) -> u64 {
        self.target.page_count()
    }

    fn put(&self, pages: PageRange, bytes: &[u8]) -> Result<(), Box<dyn Error + Send + Sync>> {
        for part in self.hold_back.others(pages) {
            let at = |page: u64| usize::try_from((page - pages.start.0) * PAGE_BYTES);
            let bytes = bytes.get(at(part.start.0)?..at(part.end().0)?);
            self.target.put(part, bytes.unwrap_or_default())?;
        }
        Ok(())
    }

    fn put_zero(&self, pages: PageRange) -> Result<(), Box<dyn Error + Send + Sync>> {
        let mut others = self.hold_back.others(pages);
        others.try_for_each(|part| self.target.put_zero(part))
    }
}

#[cfg(test)]
mod tests;
