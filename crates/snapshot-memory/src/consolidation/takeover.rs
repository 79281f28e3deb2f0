//! Which pages of a leaf a merged file takes over.

use snapshot_format::page_map::PageBits;
use snapshot_format::{LEAF_PAGES, OwnerLeaf};

/// How far pages that could stay where they are may be copied so that a leaf falls into fewer runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Fragmentation {
    /// Runs that a leaf may have before gaps are filled.
    pub max_runs: usize,
    /// Pages that may be copied beyond those that must be, in hundredths of these.
    pub max_extra_percent: u32,
}

impl Fragmentation {
    /// Sets [`max_runs`](Self::max_runs).
    #[must_use]
    pub fn max_runs(mut self, max_runs: usize) -> Self {
        self.max_runs = max_runs;
        self
    }

    /// Sets [`max_extra_percent`](Self::max_extra_percent).
    #[must_use]
    pub fn max_extra_percent(mut self, percent: u32) -> Self {
        self.max_extra_percent = percent;
        self
    }
}

impl Default for Fragmentation {
    /// 1,024 runs of 64 KiB on average, for at most a quarter more pages.
    fn default() -> Self {
        Self {
            max_runs: 1024,
            max_extra_percent: 25,
        }
    }
}

/// What a merged file takes over of one leaf.
#[derive(Clone, Debug)]
pub struct Takeover {
    /// The leaf of the flattened map, with the number of the merged file.
    owners: OwnerLeaf,
    pages: PageBits,
    extra_pages: usize,
    runs: usize,
}

/// Pages between two that are taken over, which stay where they are unless they are filled.
#[derive(Clone, Copy, Debug)]
struct Gap {
    start: usize,
    len: usize,
    /// Runs less once it is filled: its own, and one of the two beside it.
    saved_runs: usize,
}

impl Takeover {
    /// What a merged file takes over of `leaf` when the first `kept` files of the chain stay.
    ///
    /// The owners are those of the snapshot: 0 is a page that is zero or no memory.
    #[must_use]
    pub fn of(leaf: &OwnerLeaf, kept: u16, fragmentation: Fragmentation) -> Self {
        let merged = kept.saturating_add(1);
        let is_taken = |page: usize| leaf.owner(page) > kept;
        let mut owners: Vec<u16> = (0..LEAF_PAGES)
            .map(|page| leaf.owner(page).min(merged))
            .collect();
        let must = (0..LEAF_PAGES).filter(|page| is_taken(*page)).count();
        let mut runs = count_runs(&owners);
        let mut extra_pages = 0;
        let percent = usize::try_from(fragmentation.max_extra_percent).unwrap_or(usize::MAX);
        let budget = must.saturating_mul(percent) / 100;
        let mut gaps = gaps(&owners, merged);
        // The cheapest first: pages for each run that is saved, compared without dividing.
        gaps.sort_by(|a, b| {
            let (left, right) = (a.len * b.saved_runs, b.len * a.saved_runs);
            left.cmp(&right).then(a.start.cmp(&b.start))
        });
        for gap in gaps {
            if runs <= fragmentation.max_runs || extra_pages + gap.len > budget {
                break;
            }
            if let Some(filled) = owners.get_mut(gap.start..gap.start + gap.len) {
                filled.fill(merged);
            }
            extra_pages += gap.len;
            runs -= gap.saved_runs;
        }
        let (mut pages, mut start) = (PageBits::new(), 0);
        for run in owners.chunk_by(|a, b| a == b) {
            if run.first() == Some(&merged) {
                pages.insert(start, run.len());
            }
            start += run.len();
        }
        let owner_of = |page: usize| owners.get(page).copied().unwrap_or(0);
        Self {
            owners: OwnerLeaf::from_fn(leaf.number(), owner_of),
            pages,
            extra_pages,
            runs,
        }
    }

    /// The leaf of the new flattened map.
    #[must_use]
    pub fn owners(&self) -> &OwnerLeaf {
        &self.owners
    }

    /// The pages of the leaf that the merged file stores.
    #[must_use]
    pub fn pages(&self) -> &PageBits {
        &self.pages
    }

    /// How many of them could have stayed where they are.
    #[must_use]
    pub fn extra_pages(&self) -> usize {
        self.extra_pages
    }

    /// Runs that the leaf has then, zero pages among them.
    #[must_use]
    pub fn runs(&self) -> usize {
        self.runs
    }
}

/// Runs of one owner.
fn count_runs(owners: &[u16]) -> usize {
    owners.chunk_by(|a, b| a == b).count()
}

/// The gaps between pages of `merged` that hold neither zero pages nor what is no memory.
fn gaps(owners: &[u16], merged: u16) -> Vec<Gap> {
    let mut gaps = Vec::new();
    let mut open: Option<Gap> = None;
    let mut start = 0;
    for run in owners.chunk_by(|a, b| a == b) {
        let owner = run.first().copied().unwrap_or(0);
        if owner == merged {
            gaps.extend(open.take().filter(|gap| gap.len > 0));
            // What follows is a gap if it ends at such a run, too.
            open = Some(Gap {
                start: start + run.len(),
                len: 0,
                saved_runs: 1,
            });
        } else if owner == 0 {
            open = None;
        } else if let Some(gap) = &mut open {
            gap.len += run.len();
            gap.saved_runs += 1;
        }
        start += run.len();
    }
    gaps
}
