//! One bit for each page of the image, set by many threads without a lock.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use snapshot_format::{MemoryLayout, PageIndex, PageRange};

/// Pages that one word holds.
const WORD_PAGES: u64 = u64::BITS as u64;

/// Which pages of an image were written.
///
/// A bit may be set by any thread at any time. Bits beyond the last page cannot be set.
///
/// It may know the layout that its pages are numbered in; whoever is handed it for other memory can
/// then tell.
pub struct DirtyBitmap {
    page_count: u64,
    layout: Option<Arc<MemoryLayout>>,
    words: Box<[AtomicU64]>,
}

/// Bytes that are no bitmap of the expected number of pages.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BitmapError {
    /// Too few or too many bytes.
    #[error("{found} bytes, {expected} are needed for {page_count} pages (or rounded up to 8)")]
    Length {
        /// How many bytes there are.
        found: usize,
        /// How many there should be.
        expected: u64,
        /// For how many pages.
        page_count: u64,
    },
    /// A bit for a page that does not exist.
    #[error("bit {bit} is set, but there are {page_count} pages only")]
    Tail {
        /// The first such bit.
        bit: u64,
        /// How many pages there are.
        page_count: u64,
    },
}

impl DirtyBitmap {
    /// A bitmap of `page_count` clean pages.
    #[must_use]
    pub fn new(page_count: u64) -> Self {
        let words = page_count.div_ceil(WORD_PAGES);
        Self {
            page_count,
            layout: None,
            words: (0..words).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// A bitmap of clean pages of the memory of `layout`.
    #[must_use]
    pub fn of_layout(layout: Arc<MemoryLayout>) -> Self {
        let page_count = layout.page_count();
        Self {
            layout: Some(layout),
            ..Self::new(page_count)
        }
    }

    /// The layout that its pages are numbered in, if it knows.
    #[must_use]
    pub fn layout(&self) -> Option<&MemoryLayout> {
        self.layout.as_deref()
    }

    /// A bitmap of `page_count` dirty pages.
    #[must_use]
    pub fn all_set(page_count: u64) -> Self {
        let bitmap = Self::new(page_count);
        bitmap.set_all();
        bitmap
    }

    /// Reads little-endian bytes: bit `n` of the whole is page `n`.
    ///
    /// They are `page_count / 8` bytes, rounded up, or that rounded up to a multiple of 8; bits
    /// beyond the last page must be zero.
    pub fn from_le_bytes(page_count: u64, bytes: &[u8]) -> Result<Self, BitmapError> {
        let exact = page_count.div_ceil(8);
        let found = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if found != exact && found != exact.next_multiple_of(8) {
            return Err(BitmapError::Length {
                found: bytes.len(),
                expected: exact,
                page_count,
            });
        }
        let bitmap = Self::new(page_count);
        let mut first = 0;
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word.iter_mut()
                .zip(chunk)
                .for_each(|(to, from)| *to = *from);
            let word = u64::from_le_bytes(word);
            let beyond = word & !low_bits(page_count.saturating_sub(first));
            if beyond != 0 {
                return Err(BitmapError::Tail {
                    bit: first + u64::from(beyond.trailing_zeros()),
                    page_count,
                });
            }
            bitmap.or_word(first / WORD_PAGES, word);
            first += WORD_PAGES;
        }
        Ok(bitmap)
    }

    /// The bits as little-endian bytes, a multiple of 8.
    #[must_use]
    pub fn to_le_bytes(&self) -> Vec<u8> {
        let words = self.words.iter().map(|word| word.load(Ordering::Acquire));
        words.flat_map(u64::to_le_bytes).collect()
    }

    /// How many pages there are, clean and dirty.
    #[must_use]
    pub fn page_count(&self) -> u64 {
        self.page_count
    }

    /// Sets the bit of `page`; pages beyond the end are ignored.
    pub fn set(&self, page: PageIndex) {
        if page.0 < self.page_count {
            self.or_word(page.0 / WORD_PAGES, 1 << (page.0 % WORD_PAGES));
        }
    }

    /// Sets the bits of `pages`; those beyond the end are ignored.
    pub fn set_range(&self, pages: PageRange) {
        let end = pages.end().0.min(self.page_count);
        let mut at = pages.start.0;
        while at < end {
            let within = at % WORD_PAGES;
            let count = (WORD_PAGES - within).min(end - at);
            self.or_word(at / WORD_PAGES, low_bits(count) << within);
            at += count;
        }
    }

    /// Sets every bit.
    pub fn set_all(&self) {
        self.set_range(PageRange::new(0, self.page_count));
    }

    /// ORs in the bits of a log of `pages`: bit 0 of the first word is the first page.
    ///
    /// Bits beyond the end of `pages` are ignored, as a kernel pads its log.
    pub fn or_log(&self, pages: PageRange, log: &[u64]) {
        let end = pages.end().0.min(self.page_count);
        let mut at = pages.start.0;
        for &bits in log {
            if at >= end {
                return;
            }
            let bits = bits & low_bits(end - at);
            let shift = at % WORD_PAGES;
            self.or_word(at / WORD_PAGES, bits << shift);
            if shift > 0 {
                self.or_word(at / WORD_PAGES + 1, bits >> (WORD_PAGES - shift));
            }
            at += WORD_PAGES;
        }
    }

    /// ORs in the bits of `other`; of pages that both have.
    pub fn or_from(&self, other: &Self) {
        let last = low_bits(self.page_count % WORD_PAGES);
        let full = self.page_count / WORD_PAGES;
        for (index, theirs) in (0..).zip(&other.words) {
            let bits = theirs.load(Ordering::Acquire);
            self.or_word(index, if index < full { bits } else { bits & last });
        }
    }

    /// ORs in the bits that `other` has of `pages`; the first of them lands at `to`.
    pub fn or_moved(&self, other: &Self, pages: PageRange, to: PageIndex) {
        let mut done = 0;
        while done < pages.count {
            let count = (pages.count - done).min(WORD_PAGES);
            let bits = other.bits_at(pages.start.0 + done);
            self.or_log(PageRange::new(to.0 + done, count), &[bits]);
            done += count;
        }
    }

    /// The bits of 64 pages from `page` on.
    fn bits_at(&self, page: u64) -> u64 {
        let (index, shift) = (page / WORD_PAGES, page % WORD_PAGES);
        let low = self.load(index).unwrap_or(0) >> shift;
        if shift == 0 {
            return low;
        }
        low | self.load(index + 1).unwrap_or(0) << (WORD_PAGES - shift)
    }

    /// Whether the bit of `page` is set.
    #[must_use]
    pub fn is_set(&self, page: PageIndex) -> bool {
        self.load(page.0 / WORD_PAGES)
            .is_some_and(|word| word >> (page.0 % WORD_PAGES) & 1 == 1)
    }

    /// How many bits are set.
    #[must_use]
    pub fn count(&self) -> u64 {
        let words = self.words.iter().map(|word| word.load(Ordering::Acquire));
        words.map(|word| u64::from(word.count_ones())).sum()
    }

    /// How many runs [`iter_runs`](Self::iter_runs) gives, counted word by word.
    #[must_use]
    pub fn run_count(&self) -> u64 {
        let (mut runs, mut last) = (0, 0);
        for word in &self.words {
            let word = word.load(Ordering::Acquire);
            // A run starts at each bit whose lower neighbour is clear.
            runs += u64::from((word & !(word << 1 | last)).count_ones());
            last = word >> (WORD_PAGES - 1);
        }
        runs
    }

    /// Whether no bit is set.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.words
            .iter()
            .all(|word| word.load(Ordering::Acquire) == 0)
    }

    /// Moves all bits out: what is set afterwards stays here, and nothing is lost in between.
    #[must_use]
    pub fn take(&self) -> Self {
        let words = self.words.iter();
        Self {
            page_count: self.page_count,
            layout: self.layout.clone(),
            words: words
                .map(|word| AtomicU64::new(word.swap(0, Ordering::AcqRel)))
                .collect(),
        }
    }

    /// The dirty pages in order, neighbours joined.
    #[must_use]
    pub fn iter_runs(&self) -> Runs<'_> {
        Runs {
            rest: self.words.iter(),
            word: 0,
            end: 0,
        }
    }

    fn or_word(&self, index: u64, bits: u64) {
        let word = usize::try_from(index).ok().and_then(|i| self.words.get(i));
        if let Some(word) = word
            && bits != 0
        {
            word.fetch_or(bits, Ordering::AcqRel);
        }
    }

    fn load(&self, index: u64) -> Option<u64> {
        let word = self.words.get(usize::try_from(index).ok()?)?;
        Some(word.load(Ordering::Acquire))
    }
}

/// The dirty pages of a bitmap as runs, in order.
#[derive(Debug)]
pub struct Runs<'a> {
    rest: std::slice::Iter<'a, AtomicU64>,
    /// What is left of the word before `rest`.
    word: u64,
    /// One past the last page of that word.
    end: u64,
}

impl Runs<'_> {
    fn load_next(&mut self) -> Option<()> {
        self.word = self.rest.next()?.load(Ordering::Acquire);
        self.end += WORD_PAGES;
        Some(())
    }
}

impl Iterator for Runs<'_> {
    type Item = PageRange;

    #[inline]
    fn next(&mut self) -> Option<PageRange> {
        while self.word == 0 {
            self.load_next()?;
        }
        let first = self.word.trailing_zeros();
        // Adding at the lowest bit carries through the run; an overflow means that it goes on.
        let (carried, overflows) = self.word.overflowing_add(1 << first);
        let start = self.end - WORD_PAGES + u64::from(first);
        if !overflows {
            let end = self.end - WORD_PAGES + u64::from(carried.trailing_zeros());
            self.word &= carried;
            return Some(PageRange::new(start, end - start));
        }
        self.word = 0;
        let mut end = self.end;
        while self.load_next().is_some() {
            let count = self.word.trailing_ones();
            end += u64::from(count);
            if count < u64::BITS {
                self.word &= u64::MAX << count;
                break;
            }
            self.word = 0;
        }
        Some(PageRange::new(start, end - start))
    }
}

impl Clone for DirtyBitmap {
    fn clone(&self) -> Self {
        let clone = Self {
            layout: self.layout.clone(),
            ..Self::new(self.page_count)
        };
        clone.or_from(self);
        clone
    }
}

impl PartialEq for DirtyBitmap {
    fn eq(&self, other: &Self) -> bool {
        self.page_count == other.page_count && self.iter_runs().eq(other.iter_runs())
    }
}

impl Eq for DirtyBitmap {}

impl fmt::Debug for DirtyBitmap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DirtyBitmap({} of {})", self.count(), self.page_count)
    }
}

/// A word with the lowest `count` bits set; all of them from 64 on.
const fn low_bits(count: u64) -> u64 {
    if count >= WORD_PAGES {
        u64::MAX
    } else {
        (1 << count) - 1
    }
}

#[cfg(test)]
mod tests;
