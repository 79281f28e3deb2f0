//! Checking mapped memory while its guest runs.

use std::num::NonZeroU64;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use snapshot_format::{PAGE_BYTES, PageRange};

use super::check::{Buffers, MappedFiles};
use super::run::RestoreMemoryError;
use crate::capture::{Cancel, Pace};
use crate::restore::{MemoryFailure, MemoryReporter};

/// The check of a memory that is mapped and runs: an owned job, run on a thread of the caller's.
///
/// What it finds is told by the events of the memory as it is found. Dropping it ends nothing but
/// the check.
#[derive(Debug)]
#[must_use = "nothing is checked before `run`"]
pub struct BackgroundCheck {
    files: MappedFiles,
    buffers: Buffers,
    events: MemoryReporter,
    shared: Arc<Shared>,
    cancel: Cancel,
    bytes_per_second: Option<NonZeroU64>,
}

/// How far a [`BackgroundCheck`] is, and its end; clones are of the same one.
#[derive(Clone, Debug)]
pub struct CheckHandle {
    shared: Arc<Shared>,
    cancel: Cancel,
}

#[derive(Debug, Default)]
struct Shared {
    checked_bytes: AtomicU64,
    total_bytes: u64,
}

/// What a check found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct CheckOutcome {
    /// Bytes of guest memory that were looked at.
    pub checked_bytes: u64,
    /// Bytes of guest memory.
    pub total_bytes: u64,
    /// Runs of pages that are not what the snapshot holds. Each was told as an event.
    pub failures: u64,
}

impl CheckOutcome {
    /// Whether all of the memory was looked at and is as the snapshot holds it.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.failures == 0 && self.checked_bytes == self.total_bytes
    }
}

impl BackgroundCheck {
    pub(super) fn new(
        files: MappedFiles,
        events: MemoryReporter,
    ) -> Result<Self, RestoreMemoryError> {
        let total_bytes = files.image.layout().len_bytes();
        Ok(Self {
            files,
            buffers: Buffers::new()?,
            events,
            shared: Arc::new(Shared {
                checked_bytes: AtomicU64::new(0),
                total_bytes,
            }),
            cancel: Cancel::default(),
            bytes_per_second: None,
        })
    }

    /// Has it read at most so many bytes a second, on average from the start.
    pub fn bytes_per_second(self, limit: Option<NonZeroU64>) -> Self {
        Self {
            bytes_per_second: limit,
            ..self
        }
    }

    /// What watches it, and ends it.
    #[must_use]
    pub fn handle(&self) -> CheckHandle {
        CheckHandle {
            shared: Arc::clone(&self.shared),
            cancel: self.cancel.clone(),
        }
    }

    /// Checks all of the memory, in the order of its pages, and every failure is told. A thread
    /// that nobody waits for calls [`lower_priority`](crate::lower_priority) first.
    #[must_use]
    pub fn run(mut self) -> CheckOutcome {
        let span = tracing::info_span!("background check");
        let _inside = span.enter();
        let mut pace = Pace::start(self.cancel, self.bytes_per_second);
        let page_count = self.files.image.layout().page_count();
        let mut failures = 0;
        let mut tell = |failure: MemoryFailure| {
            failures += 1;
            self.events.report(failure);
            ControlFlow::Continue(())
        };
        let mut start = 0;
        while start < page_count {
            let pages = PageRange::new(start, CHUNK_PAGES.min(page_count - start));
            let bytes = pages.count * PAGE_BYTES;
            if pace.spend(bytes).is_err() {
                break;
            }
            let _ = self.files.check(pages, &mut self.buffers, &mut tell);
            self.shared
                .checked_bytes
                .fetch_add(bytes, Ordering::Relaxed);
            start += pages.count;
        }
        CheckOutcome {
            checked_bytes: self.shared.checked_bytes.load(Ordering::Relaxed),
            total_bytes: self.shared.total_bytes,
            failures,
        }
    }
}

impl CheckHandle {
    /// Bytes of guest memory that were looked at, and how many there are.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        let checked = self.shared.checked_bytes.load(Ordering::Relaxed);
        (checked, self.shared.total_bytes)
    }

    /// Asks the check to end, which it does within some milliseconds.
    pub fn cancel(&self) {
        self.cancel.ask();
    }
}

/// Pages between two looks at the flag: 1 MiB.
const CHUNK_PAGES: u64 = 256;
