//! How a working set is brought back, and what came of it.

use std::ops::Range;

use crate::capture::Cancel;

/// How a working set is brought back.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ReplayOptions {
    /// Threads that check and place pages, the caller's among them: 2 are enough to keep up with a
    /// device of 2 GB/s. At least 1.
    pub threads: usize,
    /// Which part of the data, in bytes from its start; pieces of 1 MiB that begin in it are
    /// brought. So the first part can be brought before the guest runs, and the rest beside it.
    pub part: Range<u64>,
    /// Ends the replay early.
    pub cancel: Cancel,
}

/// What a replay did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Replayed {
    /// Pages whose bytes were read, checked and handed over.
    pub data_pages: u64,
    /// Zero pages handed over.
    pub zero_pages: u64,
    /// Reads of the file.
    pub reads: u64,
}

impl ReplayOptions {
    /// All of it, on so many threads.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        Self {
            threads,
            part: 0..u64::MAX,
            cancel: Cancel::default(),
        }
    }

    /// The same, of this part of the data.
    #[must_use]
    pub fn part(self, part: Range<u64>) -> Self {
        Self { part, ..self }
    }

    /// The same, ended early by `cancel`.
    #[must_use]
    pub fn cancel(self, cancel: Cancel) -> Self {
        Self { cancel, ..self }
    }
}
