//! Which pages were touched, each once, in their order.

use snapshot_format::{PageIndex, PageRange, WorkingSetOrigin, limits};

/// Pages of an image that a guest touched, each once, in the order in which they were added.
#[derive(Clone, Debug)]
pub struct TouchedPages {
    page_count: u64,
    origin: WorkingSetOrigin,
    runs: Vec<PageRange>,
    /// A bit for each page of the image.
    seen: Vec<u64>,
    pages: u64,
    is_full: bool,
}

impl TouchedPages {
    /// No page yet, of an image of `page_count` pages.
    #[must_use]
    pub fn new(page_count: u64, origin: WorkingSetOrigin) -> Self {
        let words = usize::try_from(page_count.div_ceil(64)).unwrap_or(usize::MAX);
        Self {
            page_count,
            origin,
            runs: Vec::new(),
            seen: vec![0; words],
            pages: 0,
            is_full: false,
        }
    }

    /// Adds those of `pages` that were not added before; pages beyond the image are left out, and
    /// so is everything once there are as many runs as a working set may have.
    pub fn add(&mut self, pages: PageRange) {
        let mut start = pages.start.0;
        let end = pages.end().0.min(self.page_count);
        while start < end {
            if self.see(start) {
                start += 1;
                continue;
            }
            let mut next = start + 1;
            while next < end && !self.see(next) {
                next += 1;
            }
            self.push(PageRange::new(start, next - start));
            // The page at `next` is one from before.
            start = next + 1;
        }
    }

    /// Adds many runs in their order.
    pub fn add_all(&mut self, runs: impl IntoIterator<Item = PageRange>) {
        runs.into_iter().for_each(|pages| self.add(pages));
    }

    /// The runs, in the order in which they were added.
    #[must_use]
    pub fn runs(&self) -> &[PageRange] {
        &self.runs
    }

    /// Whether a page was added.
    #[must_use]
    pub fn has(&self, page: PageIndex) -> bool {
        let word = usize::try_from(page.0 / 64).ok();
        let word = word.and_then(|word| self.seen.get(word));
        page.0 < self.page_count && word.is_some_and(|word| word >> (page.0 % 64) & 1 == 1)
    }

    /// The pages that were not added to `others`, in their order.
    #[must_use]
    pub fn without(&self, others: &Self) -> Self {
        let mut rest = Self::new(self.page_count, self.origin);
        for page in self.runs.iter().flat_map(|run| run.start.0..run.end().0) {
            if !others.has(PageIndex(page)) {
                rest.add(PageRange::new(page, 1));
            }
        }
        rest
    }

    /// How many pages there are.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// Pages of the image.
    #[must_use]
    pub fn page_count(&self) -> u64 {
        self.page_count
    }

    /// How they became known.
    #[must_use]
    pub fn origin(&self) -> WorkingSetOrigin {
        self.origin
    }

    /// Whether pages were left out because there are too many runs.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.is_full
    }

    fn push(&mut self, pages: PageRange) {
        if let Some(last) = self
            .runs
            .last_mut()
            .filter(|last| last.end() == pages.start)
        {
            last.count += pages.count;
        } else if self.runs.len() < limits::MAX_WORKING_SET_RUNS {
            self.runs.push(pages);
        } else {
            self.is_full = true;
            return;
        }
        self.pages += pages.count;
    }

    /// Marks a page as seen; whether it was before.
    fn see(&mut self, page: u64) -> bool {
        let word = usize::try_from(page / 64).ok();
        let Some(word) = word.and_then(|word| self.seen.get_mut(word)) else {
            return true;
        };
        let bit = 1 << (page % 64);
        let was = *word & bit != 0;
        *word |= bit;
        was
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        // spec: WS-07
        #[test]
        fn every_page_is_there_once_and_in_the_order_of_its_first_touch(
            touches in prop::collection::vec((0..300_u64, 0..70_u64), 0..60),
        ) {
            let mut touched = TouchedPages::new(256, WorkingSetOrigin::Trace);
            touched.add_all(touches.iter().map(|&(start, count)| PageRange::new(start, count)));
            let mut seen = HashSet::new();
            let expected: Vec<u64> = touches
                .iter()
                .flat_map(|&(start, count)| start..start + count)
                .filter(|page| *page < 256 && seen.insert(*page))
                .collect();
            let found: Vec<u64> = touched
                .runs()
                .iter()
                .flat_map(|run| run.start.0..run.end().0)
                .collect();
            prop_assert_eq!(&found, &expected);
            prop_assert_eq!(touched.pages(), expected.len() as u64);
            prop_assert!(!touched.is_full());
        }
    }

    // spec: WS-08
    #[test]
    fn runs_beyond_what_a_file_may_hold_are_left_out() {
        let most = limits::MAX_WORKING_SET_RUNS as u64;
        let mut touched = TouchedPages::new(2 * most + 10, WorkingSetOrigin::Named);
        touched.add_all((0..most + 2).map(|run| PageRange::new(2 * run, 1)));
        assert!(touched.is_full());
        assert_eq!((touched.runs().len() as u64, touched.pages()), (most, most));
    }
}
