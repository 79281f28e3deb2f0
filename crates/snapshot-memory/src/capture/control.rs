//! Watching a capture, slowing it down, and breaking it off.

use std::fmt;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A flag that any thread may set, and that long work looks at on its way.
///
/// Clones are the same flag. After a snapshot is published it has no effect.
#[derive(Clone, Debug, Default)]
pub struct Cancel {
    asked: Arc<AtomicBool>,
    also: Option<Box<Cancel>>,
}

impl Cancel {
    /// Asks for the end.
    pub fn ask(&self) {
        self.asked.store(true, Ordering::Release);
    }

    /// Whether the end was asked for.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Acquire) || self.also.as_ref().is_some_and(|also| also.is_asked())
    }

    /// This flag, which counts as set as well once `other` is.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        let also = match self.also {
            None => other,
            Some(also) => also.or(other),
        };
        Self {
            asked: self.asked,
            also: Some(Box::new(also)),
        }
    }
}

/// How far a capture is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct CaptureProgress {
    /// Bytes of guest memory looked at.
    pub taken_bytes: u64,
    /// Bytes of guest memory that will be looked at.
    pub total_bytes: u64,
    /// Bytes given to the data file.
    pub written_bytes: u64,
}

/// How a capture is watched, slowed down and broken off.
///
/// Clones share the flag and the callback.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct CaptureControl {
    /// Breaks the capture off: it fails with [`SinkError::Cancelled`](crate::SinkError::Cancelled)
    /// within a few milliseconds, and dirty bits stay pending.
    pub cancel: Cancel,
    /// At most so many bytes a second go to the data file, on average from the start.
    pub bytes_per_second: Option<NonZeroU64>,
    progress: Option<Arc<dyn Fn(CaptureProgress) + Send + Sync>>,
}

impl CaptureControl {
    /// Sets the flag that breaks the capture off.
    #[must_use]
    pub fn cancel(mut self, cancel: Cancel) -> Self {
        self.cancel = cancel;
        self
    }

    /// Limits the rate of writing.
    #[must_use]
    pub fn bytes_per_second(mut self, limit: Option<NonZeroU64>) -> Self {
        self.bytes_per_second = limit;
        self
    }

    /// Has `tell` called from the thread that captures, at least every 2 MiB of memory looked at.
    #[must_use]
    pub fn progress(mut self, tell: impl Fn(CaptureProgress) + Send + Sync + 'static) -> Self {
        self.progress = Some(Arc::new(tell));
        self
    }

    /// Tells how much of a copy is done: as much was written as was taken.
    pub fn report(&self, done_bytes: u64, total_bytes: u64) {
        self.tell(CaptureProgress {
            taken_bytes: done_bytes,
            total_bytes,
            written_bytes: done_bytes,
        });
    }

    pub(crate) fn tell(&self, progress: CaptureProgress) {
        if let Some(tell) = &self.progress {
            tell(progress);
        }
    }
}

impl fmt::Debug for CaptureControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CaptureControl")
            .field("cancel", &self.cancel)
            .field("bytes_per_second", &self.bytes_per_second)
            .field("progress", &self.progress.is_some())
            .finish()
    }
}
