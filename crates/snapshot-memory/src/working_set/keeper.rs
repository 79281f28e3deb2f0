//! Where the working set of a snapshot is kept, and what it is kept true by.

use std::fmt;

use serde::Serialize;

use super::error::WorkingSetError;
use super::hold_back::HoldBack;
use super::open::WorkingSet;
use super::refresh::Change;
use super::touched::TouchedPages;
use super::write::WrittenWorkingSet;

/// Where the working set of one snapshot is kept.
///
/// Whoever brings the snapshot back opens the set that counts now, and afterwards hands in what the
/// guest touched. Calls come from any thread and process at once: who has a set open reads on while
/// another takes its place.
pub trait WorkingSetKeeper: fmt::Debug + Send + Sync {
    /// Opens the one that counts now; `None`: there is none.
    fn open(&self) -> Result<Option<WorkingSet>, WorkingSetError>;

    /// Makes a new one count if what was observed says that it is worth it, by the rule of
    /// [`Change::of`].
    fn refresh(&self, observed: &Observed) -> Result<Refreshed, WorkingSetError>;
}

/// What a guest touched after it was brought back.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The pages.
    pub touched: TouchedPages,
    /// What of all that it touched is among them.
    pub seen: Seen,
    /// Whether the data of the set that was replayed was found damaged.
    pub is_damaged: bool,
}

/// How much of what a guest touches can be seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    /// All of it.
    All,
    /// Not what had been put in place before it was touched, but for this sample, where there is
    /// one.
    NotBrought(Option<HoldBack>),
}

/// What came of an observation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct Refreshed {
    /// Whether there is a new set, and why.
    pub change: Change,
    /// The generation of the placement that names it; `None`: the set from before stays.
    pub generation: Option<u32>,
    /// The new set.
    pub written: Option<WrittenWorkingSet>,
}

impl Observed {
    /// Pages that a guest touched, and how much of what it touched that is.
    #[must_use]
    pub fn new(touched: TouchedPages, seen: Seen) -> Self {
        Self {
            touched,
            seen,
            is_damaged: false,
        }
    }

    /// Pages of which it is known that the guest touched these and no others.
    #[must_use]
    pub fn all(touched: TouchedPages) -> Self {
        Self::new(touched, Seen::All)
    }
}

impl Refreshed {
    /// The set from before stays.
    #[must_use]
    pub fn kept(change: Change) -> Self {
        Self {
            change,
            generation: None,
            written: None,
        }
    }

    /// A new one counts.
    #[must_use]
    pub fn published(change: Change, generation: u32, written: WrittenWorkingSet) -> Self {
        Self {
            change,
            generation: Some(generation),
            written: Some(written),
        }
    }
}
