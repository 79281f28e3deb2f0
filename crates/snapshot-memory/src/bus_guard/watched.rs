//! The mappings of one guest, and what is lost of them.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use snapshot_format::{PAGE_BYTES, PageIndex, PageRange};

use super::{BusGuardError, calls};
use crate::restore::{FailureCause, MemoryFailure, MemoryReporter, NotedFailures};

/// A run of guest pages that is a private mapping of one file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MappedRun {
    /// Where it is mapped: whole pages of this process's address space.
    pub addresses: Range<u64>,
    /// The page of the image that is at the first address.
    pub first: PageIndex,
    /// What events call the file.
    pub file: Arc<str>,
    /// The offset in the file that is at the first address, in bytes.
    pub offset: u64,
}

/// Threads are held until the guest is abandoned.
const HELD: u32 = 0;

/// Threads go on over zero pages.
const ABANDONED: u32 = 1;

/// Lost addresses that wait to be told, at most. Each thread that is held takes one; more say
/// nothing new.
const NOTED: usize = 64;

/// What the signal handler knows of one guest. It locks nothing and allocates nothing.
#[derive(Debug)]
pub(super) struct Watched {
    /// Sorted by address.
    runs: Box<[MappedRun]>,
    host_page_bytes: u64,
    gate: AtomicU32,
    /// Lost addresses; 0 is a free place.
    noted: [AtomicU64; NOTED],
    reporter: MemoryReporter,
}

impl Watched {
    pub(super) fn new(
        mut runs: Vec<MappedRun>,
        reporter: MemoryReporter,
    ) -> Result<Self, BusGuardError> {
        let host_page_bytes =
            calls::host_page_bytes().map_err(BusGuardError::system("ask for the page size"))?;
        runs.sort_unstable_by_key(|run| run.addresses.start);
        let mut end = 0;
        for run in &runs {
            let here = &run.addresses;
            let is_whole = here.start % host_page_bytes == 0 && here.end % host_page_bytes == 0;
            if here.is_empty() || !is_whole || here.start < end || here.start == 0 {
                return Err(BusGuardError::NoRun(here.clone()));
            }
            end = here.end;
        }
        Ok(Self {
            runs: runs.into_boxed_slice(),
            host_page_bytes,
            gate: AtomicU32::new(HELD),
            noted: [const { AtomicU64::new(0) }; NOTED],
            reporter,
        })
    }

    pub(super) fn runs(&self) -> &[MappedRun] {
        &self.runs
    }

    pub(super) fn reporter(&self) -> &MemoryReporter {
        &self.reporter
    }

    /// The run that `address` lies in.
    pub(super) fn run_at(&self, address: u64) -> Option<&MappedRun> {
        let after = self
            .runs
            .partition_point(|run| run.addresses.start <= address);
        let run = self.runs.get(after.checked_sub(1)?)?;
        run.addresses.contains(&address).then_some(run)
    }

    /// What a thread does that found `address`, in one of the runs, without bytes: it tells, is
    /// held until the guest is abandoned, and then has a zero page there. Whether it may go on.
    ///
    /// Runs in a signal handler.
    pub(super) fn lose(&self, address: u64) -> bool {
        if self.gate.load(Ordering::Acquire) == HELD {
            self.note(address);
            self.reporter.ring();
            while self.gate.load(Ordering::Acquire) == HELD {
                calls::futex_wait(&self.gate, HELD);
            }
        }
        let page = address - address % self.host_page_bytes;
        calls::zero_page(page, self.host_page_bytes)
    }

    /// Lets every held thread go on, now and from now on.
    pub(super) fn abandon(&self) {
        self.gate.store(ABANDONED, Ordering::Release);
        calls::futex_wake_all(&self.gate);
    }

    fn note(&self, address: u64) {
        for place in &self.noted {
            let taken = place.compare_exchange(0, address, Ordering::AcqRel, Ordering::Relaxed);
            if taken.is_ok() {
                return;
            }
        }
    }
}

impl MappedRun {
    /// The failure of the pages of this run that are at `addresses`.
    pub(super) fn failure(&self, addresses: Range<u64>) -> MemoryFailure {
        let before = addresses.start - self.addresses.start;
        let first = self.first.0 + before / PAGE_BYTES;
        let end = addresses.end - self.addresses.start;
        let count = (self.first.0 + end.div_ceil(PAGE_BYTES)).saturating_sub(first);
        MemoryFailure {
            pages: PageRange::new(first, count),
            cause: FailureCause::Mapping {
                file: self.file.to_string(),
                offset: self.offset + (first - self.first.0) * PAGE_BYTES,
            },
        }
    }
}

impl NotedFailures for Watched {
    fn drain(&self, into: &mut Vec<MemoryFailure>) {
        for place in &self.noted {
            let address = place.swap(0, Ordering::AcqRel);
            if let Some(run) = self.run_at(address) {
                let page = address - (address - run.addresses.start) % PAGE_BYTES;
                into.push(run.failure(page..page + PAGE_BYTES));
            }
        }
    }
}

#[cfg(test)]
mod tests;
