//! Which pages were asked for, in order.

use std::sync::{Mutex, PoisonError};

use snapshot_format::PageRange;

/// The pages that were brought since a thread waited for one of them, in that order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FaultTrace {
    /// Runs of pages, each of one window at most.
    pub runs: Vec<PageRange>,
    /// Runs that were left out, as there were too many.
    pub left_out: u64,
}

/// The trace as it grows.
#[derive(Debug)]
pub(super) struct Recorder {
    max_runs: usize,
    trace: Mutex<FaultTrace>,
}

impl Recorder {
    pub(super) fn new(max_runs: usize) -> Self {
        Self {
            max_runs,
            trace: Mutex::default(),
        }
    }

    pub(super) fn add(&self, pages: PageRange) {
        let mut trace = self.trace.lock().unwrap_or_else(PoisonError::into_inner);
        if trace.runs.len() < self.max_runs {
            trace.runs.push(pages);
        } else {
            trace.left_out += 1;
        }
    }

    pub(super) fn trace(&self) -> FaultTrace {
        let trace = self.trace.lock().unwrap_or_else(PoisonError::into_inner);
        trace.clone()
    }
}
