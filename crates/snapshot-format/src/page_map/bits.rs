//! One bit for each page of a leaf.

use crate::page_map::{LEAF_PAGES, LEAF_WORDS};

/// One bit for each of the 16384 pages of a leaf.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PageBits {
    words: Box<[u64; LEAF_WORDS]>,
}

impl PageBits {
    /// No page.
    #[must_use]
    pub fn new() -> Self {
        Self {
            words: Box::new([0; LEAF_WORDS]),
        }
    }

    /// The bits as words of 64 pages, lowest page in the lowest bit.
    #[must_use]
    pub fn words(&self) -> &[u64; LEAF_WORDS] {
        &self.words
    }

    /// The bits as words that can be changed.
    pub fn words_mut(&mut self) -> &mut [u64; LEAF_WORDS] {
        &mut self.words
    }

    /// Whether the page is in the set; `false` beyond the leaf.
    #[must_use]
    pub fn contains(&self, page: usize) -> bool {
        let word = self.words.get(page / 64);
        word.is_some_and(|word| word >> (page % 64) & 1 == 1)
    }

    /// Adds `count` pages from `start`; pages beyond the leaf are left out.
    pub fn insert(&mut self, start: usize, count: usize) {
        let end = start.saturating_add(count).min(LEAF_PAGES);
        let words = self.words.get_mut(start / 64..end.div_ceil(64));
        for (index, word) in (start / 64..).zip(words.into_iter().flatten()) {
            *word |= span(index * 64, start, end);
        }
    }

    /// How many pages are in the set.
    #[must_use]
    pub fn count(&self) -> usize {
        self.words
            .iter()
            .map(|word| word.count_ones() as usize)
            .sum()
    }

    /// The runs of pages in the set, as (first page, count), by ascending page.
    pub fn runs(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let mut from = 0;
        std::iter::from_fn(move || {
            let start = self.next(from, 0)?;
            let end = self.next(start, u64::MAX).unwrap_or(LEAF_PAGES);
            from = end;
            Some((start, end - start))
        })
    }

    /// The pages in the set, by ascending page.
    pub fn pages(&self) -> impl Iterator<Item = usize> + '_ {
        self.runs().flat_map(|(start, count)| start..start + count)
    }

    /// The first page at or after `from` whose bit differs from the bits of `fill`.
    fn next(&self, from: usize, fill: u64) -> Option<usize> {
        let first = from / 64;
        let words = self.words.iter().enumerate().skip(first);
        for (index, word) in words {
            let mut differs = word ^ fill;
            if index == first {
                differs &= u64::MAX << (from % 64);
            }
            if differs != 0 {
                return Some(index * 64 + differs.trailing_zeros() as usize);
            }
        }
        None
    }
}

impl Default for PageBits {
    fn default() -> Self {
        Self::new()
    }
}

/// The bits of the 64 pages from `base` that lie in `start..end`.
fn span(base: usize, start: usize, end: usize) -> u64 {
    let from = start.clamp(base, base + 64) - base;
    let to = end.clamp(base, base + 64) - base;
    if from >= to {
        return 0;
    }
    (u64::MAX << from) & (u64::MAX >> (64 - to))
}
