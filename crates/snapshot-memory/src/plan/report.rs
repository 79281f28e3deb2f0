//! What was done to bring memory back.

use serde::Serialize;

use super::method::{GivenBack, RestoreMethod};
use super::restore_plan::CheckedBy;
use crate::restore::Verification;
use crate::working_set::WorkingSetFault;

/// What was done to bring memory back: no restore leaves open whether its pages were checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct MemoryReport {
    /// How memory was put in place.
    pub method: RestoreMethod,
    /// When its pages are checked.
    pub verification: Verification,
    /// What checks them.
    pub checked_by: CheckedBy,
    /// What pages read as that are given back by plain `madvise` while the guest runs.
    pub given_back: GivenBack,
    /// Bytes that were read and checked before the guest may run.
    pub checked_bytes: u64,
    /// Bytes that were copied to memory of this guest, or to a memfd that guests share, before the
    /// guest may run.
    pub copied_bytes: u64,
    /// What was brought of the working set before the guest may run; `None`: the plan has none.
    pub working_set: Option<WorkingSetReport>,
}

/// What was brought of a working set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct WorkingSetReport {
    /// Pages of the set; 0 where it could not be opened.
    pub set_pages: u64,
    /// Pages whose bytes were read from it, checked and handed over.
    pub data_pages: u64,
    /// Zero pages that were handed over.
    pub zero_pages: u64,
    /// Bytes of those that are not zero.
    pub data_bytes: u64,
    /// Whether nothing more of it comes.
    pub is_done: bool,
    /// Why not all of it was brought.
    pub fault: Option<WorkingSetFault>,
}

impl MemoryReport {
    /// Memory that was put in place by `method`, its pages checked as told; nothing was read yet.
    #[must_use]
    pub fn new(method: RestoreMethod, verification: Verification, checked_by: CheckedBy) -> Self {
        Self {
            method,
            verification,
            checked_by,
            given_back: method.given_back(),
            checked_bytes: 0,
            copied_bytes: 0,
            working_set: None,
        }
    }

    /// The same, after so many bytes were checked and copied.
    #[must_use]
    pub fn copied(self, len_bytes: u64) -> Self {
        Self {
            checked_bytes: len_bytes,
            copied_bytes: len_bytes,
            ..self
        }
    }
}
