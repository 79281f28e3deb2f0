//! What is known of each page of served memory: two bits a page.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use snapshot_format::{PageIndex, PageRange};

/// Pages that one word holds.
const WORD_PAGES: u64 = 32;

/// Words of one leaf: 16384 pages, 64 MiB of memory.
const LEAF_WORDS: usize = 512;

const LEAF_PAGES: u64 = WORD_PAGES * LEAF_WORDS as u64;

/// The low bit of every page of a word.
const LOW: u64 = 0x5555_5555_5555_5555;

/// What a page of served memory is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PageState {
    /// As in the snapshot, and not there yet.
    Absent,
    /// It was put there, and is the guest's since.
    Filled,
    /// The VMM gave it back: where it is missing, it is zero, and never again as in the snapshot.
    Discarded,
    /// The source could not give it: whoever touches it waits.
    Lost,
}

impl PageState {
    fn of_bits(bits: u64) -> Self {
        match bits & 3 {
            0 => Self::Absent,
            1 => Self::Filled,
            2 => Self::Discarded,
            _ => Self::Lost,
        }
    }

    /// A word of 32 pages in this state.
    fn word(self) -> u64 {
        let bits = match self {
            Self::Absent => 0,
            Self::Filled => 1,
            Self::Discarded => 2,
            Self::Lost => 3,
        };
        LOW * bits
    }
}

type Leaf = [AtomicU64; LEAF_WORDS];

/// The states of all pages, absent at first.
///
/// Leaves are made when their first page changes, so that making the table costs 16 bytes for 64 MiB
/// of memory.
pub(super) struct PageStates {
    page_count: u64,
    leaves: Box<[OnceLock<Box<Leaf>>]>,
}

impl PageStates {
    pub(super) fn new(page_count: u64) -> Self {
        let leaves = page_count.div_ceil(LEAF_PAGES);
        Self {
            page_count,
            leaves: (0..leaves).map(|_| OnceLock::new()).collect(),
        }
    }

    pub(super) fn page_count(&self) -> u64 {
        self.page_count
    }

    /// How many leaves were made.
    #[cfg(test)]
    pub(super) fn leaf_count(&self) -> usize {
        let made = self.leaves.iter().filter(|leaf| leaf.get().is_some());
        made.count()
    }

    pub(super) fn get(&self, page: PageIndex) -> PageState {
        let shift = page.0 % WORD_PAGES * 2;
        PageState::of_bits(self.word(page.0 / WORD_PAGES) >> shift)
    }

    /// The state of the first page of `pages`, and how many from there on have it; none of no
    /// pages.
    pub(super) fn run(&self, pages: PageRange) -> (PageState, u64) {
        let state = self.get(pages.start);
        let end = pages.end().0.min(self.page_count);
        let mut at = pages.start.0;
        while at < end {
            let word = at / WORD_PAGES;
            let other = (self.word(word) ^ state.word()) >> (at % WORD_PAGES * 2);
            let left = WORD_PAGES - at % WORD_PAGES;
            let alike = u64::from(other.trailing_zeros() / 2).min(left);
            at += alike;
            if alike < left {
                break;
            }
        }
        (state, at.min(end).saturating_sub(pages.start.0))
    }

    /// The run of absent pages within `window` that `page`, one of them, lies in.
    pub(super) fn absent_around(&self, window: PageRange, page: PageIndex) -> PageRange {
        let mut start = window.start.0;
        loop {
            let rest = PageRange::new(start, window.end().0.saturating_sub(start));
            let (state, count) = self.run(rest);
            let next = start + count;
            if page.0 < next || count == 0 {
                let is_absent = state == PageState::Absent && count > 0;
                return PageRange::new(start, if is_absent { count } else { 0 });
            }
            start = next;
        }
    }

    /// Absent and lost pages of `pages` are filled from now on; discarded ones stay discarded.
    pub(super) fn fill(&self, pages: PageRange) {
        self.change(pages, |word, mask| {
            let (low, high) = (word & LOW, word >> 1 & LOW);
            let unfilled = !(low ^ high) & LOW & mask;
            (word & !(unfilled * 3)) | unfilled
        });
    }

    /// All of `pages` are discarded from now on.
    pub(super) fn discard(&self, pages: PageRange) {
        self.change(pages, |word, mask| (word & !(mask * 3)) | (mask << 1));
    }

    /// Absent pages of `pages` are lost from now on; gives whether one was absent.
    pub(super) fn lose(&self, page: PageIndex) -> bool {
        let mut was_absent = false;
        self.change(
            PageRange {
                start: page,
                count: 1,
            },
            |word, mask| {
                was_absent = word & (mask * 3) == 0;
                if was_absent { word | (mask * 3) } else { word }
            },
        );
        was_absent
    }

    /// Changes the words of `pages`; `change` is given a word and the low bits of its pages.
    fn change(&self, pages: PageRange, mut change: impl FnMut(u64, u64) -> u64) {
        let end = pages.end().0.min(self.page_count);
        let mut at = pages.start.0;
        while at < end {
            let first = at % WORD_PAGES;
            let count = (WORD_PAGES - first).min(end - at);
            let mask = (LOW >> ((WORD_PAGES - count) * 2)) << (first * 2);
            if let Some(word) = self.word_to_change(at / WORD_PAGES) {
                let changed = |old| Some(change(old, mask));
                // It never fails, as a new value is always given.
                let _ = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, changed);
            }
            at += count;
        }
    }

    fn word(&self, number: u64) -> u64 {
        let (leaf, word) = place(number);
        let leaf = self.leaves.get(leaf).and_then(OnceLock::get);
        let word = leaf.and_then(|leaf| leaf.get(word));
        word.map_or(0, |word| word.load(Ordering::Acquire))
    }

    fn word_to_change(&self, number: u64) -> Option<&AtomicU64> {
        let (leaf, word) = place(number);
        let new_leaf = || Box::new([const { AtomicU64::new(0) }; LEAF_WORDS]);
        self.leaves.get(leaf)?.get_or_init(new_leaf).get(word)
    }
}

/// In which leaf a word is, and where there.
fn place(word: u64) -> (usize, usize) {
    let word = usize::try_from(word).unwrap_or(usize::MAX);
    (word / LEAF_WORDS, word % LEAF_WORDS)
}

impl fmt::Debug for PageStates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageStates")
            .field("page_count", &self.page_count)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
