//! Whether what a guest touched is worth a new working set, and which pages that has.

use serde::Serialize;
use snapshot_format::{PAGE_BYTES, PageIndex, PageRange, WorkingSetIndex};

use super::hold_back::HoldBack;
use super::keeper::{Observed, Seen};
use super::touched::TouchedPages;
use super::write::WorkingSetOptions;

/// Fewer pages than these are worth no new set, and an observation of fewer says nothing of a set
/// that there is: the guest may hardly have run. A wait for each of them takes 3 ms in all, about as
/// long as making a placement durable.
pub const REFRESH_MIN_PAGES: u64 = 64;

/// A set is worth a new one where one page for so many of it is missing: each costs a guest a wait.
pub const REFRESH_MISSING_SHARE: u64 = 8;

/// A set is worth a new one where one page in so many of it is not touched any more: each costs a
/// replay a read, a tenth of a wait.
pub const REFRESH_STALE_SHARE: u64 = 2;

/// What an observation says of the working set that there is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct Change {
    /// What is to be done.
    pub verdict: Verdict,
    /// Pages of the set that there is.
    pub pages: u64,
    /// Pages that were touched and that it does not have.
    pub missing_pages: u64,
    /// Its pages of which it is known whether they were touched.
    pub sampled_pages: u64,
    /// Those among them that were not.
    pub stale_pages: u64,
}

/// What is to be done about a working set.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// There is none, or none that is of use: a first one.
    First,
    /// Too little was touched to say anything.
    TooFew,
    /// It stays: too little of it has changed.
    Same,
    /// What was missing goes before what there is; what is known not to be touched goes.
    Extend,
    /// The new set is what was touched, and nothing else.
    Replace,
}

impl Verdict {
    /// Whether a new set comes of it.
    #[must_use]
    pub const fn publishes(self) -> bool {
        matches!(self, Self::First | Self::Extend | Self::Replace)
    }

    /// The name in reports and on command lines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::TooFew => "too-few",
            Self::Same => "same",
            Self::Extend => "extend",
            Self::Replace => "replace",
        }
    }
}

impl Change {
    /// What `observed` says of `current`.
    ///
    /// Of a set of n pages, a new one comes where at least [`REFRESH_MIN_PAGES`] were touched, and
    /// max([`REFRESH_MIN_PAGES`], n ÷ [`REFRESH_MISSING_SHARE`]) pages are missing, or so many of
    /// the pages that are known are stale that it is one in [`REFRESH_STALE_SHARE`], and at least
    /// [`REFRESH_MIN_PAGES`]. Where so many are stale, or all that was touched is known, it has
    /// what was touched alone. One whose data is damaged is made anew as well.
    #[must_use]
    pub fn of(
        current: Option<&WorkingSetIndex>,
        observed: &Observed,
        options: &WorkingSetOptions,
    ) -> Self {
        let touched = &observed.touched;
        let Some(current) = current.filter(|set| set.page_count == touched.page_count()) else {
            return Self {
                verdict: if touched.pages() == 0 {
                    Verdict::TooFew
                } else {
                    Verdict::First
                },
                pages: 0,
                missing_pages: touched.pages(),
                sampled_pages: 0,
                stale_pages: 0,
            };
        };
        let kept = pages_of(current);
        // What there would be no room for is not missing.
        let mut room = options.max_bytes / PAGE_BYTES;
        let mut missing_pages = 0;
        for page in touched.runs().iter().copied().flat_map(pages_in) {
            if room == 0 {
                break;
            }
            room -= 1;
            missing_pages += u64::from(!kept.has(page));
        }
        let (mut sampled_pages, mut stale_pages) = (0, 0);
        let sampled = kept.runs().iter().copied().flat_map(pages_in);
        for page in sampled.filter(|page| observed.seen.would_tell(*page)) {
            sampled_pages += 1;
            stale_pages += u64::from(!touched.has(page));
        }
        let mut change = Self {
            verdict: Verdict::Same,
            pages: kept.pages(),
            missing_pages,
            sampled_pages,
            stale_pages,
        };
        change.verdict = change.judge(observed);
        change
    }

    fn judge(&self, observed: &Observed) -> Verdict {
        let least = if observed.is_damaged {
            1
        } else {
            REFRESH_MIN_PAGES
        };
        if observed.touched.pages() < least {
            return Verdict::TooFew;
        }
        let is_stale = self.stale_pages >= REFRESH_MIN_PAGES
            && self.stale_pages * REFRESH_STALE_SHARE >= self.sampled_pages;
        let enough = REFRESH_MIN_PAGES.max(self.pages / REFRESH_MISSING_SHARE);
        let is_missing = self.missing_pages >= enough;
        let is_missing = is_missing || observed.is_damaged;
        match (is_stale, is_missing, observed.seen) {
            (false, false, _) => Verdict::Same,
            (true, _, _) | (_, _, Seen::All) => Verdict::Replace,
            (false, true, Seen::NotBrought(_)) => Verdict::Extend,
        }
    }

    /// The pages of the new set, those first that are kept where there is not room for all; `None`:
    /// the one from before stays.
    #[must_use]
    pub fn pages(
        &self,
        current: Option<&WorkingSetIndex>,
        observed: &Observed,
    ) -> Option<TouchedPages> {
        let mut pages = observed.touched.clone();
        if let (Verdict::Extend, Some(current)) = (self.verdict, current) {
            for page in current.runs.iter().flat_map(|run| pages_in(run.pages)) {
                if !observed.seen.would_tell(page) {
                    pages.add(PageRange::new(page.0, 1));
                }
            }
        }
        self.verdict.publishes().then_some(pages)
    }
}

impl Seen {
    /// Whether a page that was touched would be among those that were observed.
    fn would_tell(self, page: PageIndex) -> bool {
        match self {
            Self::All => true,
            Self::NotBrought(sample) => sample.is_some_and(|sample: HoldBack| sample.holds(page)),
        }
    }
}

fn pages_of(index: &WorkingSetIndex) -> TouchedPages {
    let mut pages = TouchedPages::new(index.page_count, index.origin);
    pages.add_all(index.runs.iter().map(|run| run.pages));
    pages
}

fn pages_in(run: PageRange) -> impl Iterator<Item = PageIndex> {
    (run.start.0..run.end().0).map(PageIndex)
}

#[cfg(test)]
mod tests;
