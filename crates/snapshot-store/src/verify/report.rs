//! What a check is asked for, and what it found.

use std::ops::ControlFlow;
use std::time::Duration;

use serde::Serialize;
use snapshot_format::SnapshotId;
use snapshot_memory::backend::RelPath;

use crate::error::{ErrorKind, StoreError};

/// What is to be checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Selection {
    /// Every snapshot, deleted ones included, as others may need them.
    All,
    /// One snapshot in use, and every snapshot whose data it needs.
    One(SnapshotId),
}

/// What is to be checked, in which order, and how much of it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct VerifyOptions {
    /// Which snapshots.
    pub selection: Selection,
    /// Of all, those whose last check is at least so long ago, those never checked, and those in
    /// which the last check found something.
    pub older_than: Option<Duration>,
    /// Of all, as many as are begun before so many bytes are checked: each is checked whole.
    pub max_bytes: Option<u64>,
    /// Whether the store remembers when each was checked, if it can be written to.
    pub remember: bool,
    /// The time, in milliseconds since 1970; `None`: that of the host.
    pub now_unix_ms: Option<u64>,
}

impl VerifyOptions {
    /// All of the selection, which is remembered.
    #[must_use]
    pub fn of(selection: Selection) -> Self {
        Self {
            selection,
            older_than: None,
            max_bytes: None,
            remember: true,
            now_unix_ms: None,
        }
    }

    /// Sets [`older_than`](Self::older_than).
    #[must_use]
    pub fn older_than(mut self, age: Option<Duration>) -> Self {
        self.older_than = age;
        self
    }

    /// Sets [`max_bytes`](Self::max_bytes).
    #[must_use]
    pub fn max_bytes(mut self, bytes: Option<u64>) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Sets [`remember`](Self::remember).
    #[must_use]
    pub fn remember(mut self, remember: bool) -> Self {
        self.remember = remember;
        self
    }

    /// Sets [`now_unix_ms`](Self::now_unix_ms).
    #[must_use]
    pub fn now_unix_ms(mut self, now: u64) -> Self {
        self.now_unix_ms = Some(now);
        self
    }
}

/// How far a check is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VerifyProgress {
    /// Snapshots that are done.
    pub snapshots: u64,
    /// Snapshots in all.
    pub snapshots_total: u64,
    /// Bytes that were read and checked.
    pub bytes: u64,
}

/// What a check found.
#[derive(Clone, Debug, Serialize)]
pub struct VerifyReport {
    /// Whether there is no error.
    pub ok: bool,
    /// Snapshots that were checked.
    pub snapshots: u64,
    /// Snapshots that were due and were left for the next time, as the bytes were used up.
    pub left: u64,
    /// Bytes that were read and checked; holes are not counted.
    pub bytes: u64,
    /// Pages in merged files, by snapshot, for which nothing vouches but the digests of those: the
    /// snapshots that wrote them are gone.
    pub unbound_pages: u64,
    /// Everything that is wrong.
    pub errors: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct Problem {
    /// In which snapshot.
    pub snapshot: SnapshotId,
    /// In which file, below the root of the store.
    pub file: Option<String>,
    /// Where in the file, in bytes.
    pub offset: Option<u64>,
    /// What sort of problem.
    pub kind: ErrorKind,
    /// What is wrong, with its causes.
    pub message: String,
    /// What to do.
    pub hint: &'static str,
}

/// A check in progress.
pub(super) struct Findings<'a> {
    pub(super) progress: VerifyProgress,
    pub(super) problems: Vec<Problem>,
    unbound_pages: u64,
    tell: &'a mut dyn FnMut(VerifyProgress) -> ControlFlow<()>,
}

impl<'a> Findings<'a> {
    pub(super) fn new(
        snapshots_total: u64,
        tell: &'a mut dyn FnMut(VerifyProgress) -> ControlFlow<()>,
    ) -> Self {
        Self {
            progress: VerifyProgress {
                snapshots_total,
                ..VerifyProgress::default()
            },
            problems: Vec::new(),
            unbound_pages: 0,
            tell,
        }
    }

    /// Counts bytes that were checked, and asks whether to go on.
    pub(super) fn checked(&mut self, bytes: u64) -> Result<(), StoreError> {
        self.progress.bytes = self.progress.bytes.saturating_add(bytes);
        self.go_on()
    }

    /// Counts pages that no manifest vouches for any more.
    pub(super) fn unbound(&mut self, pages: u64) {
        self.unbound_pages = self.unbound_pages.saturating_add(pages);
    }

    /// Counts a snapshot that is done, and asks whether to go on.
    pub(super) fn snapshot_done(&mut self) -> Result<(), StoreError> {
        self.progress.snapshots += 1;
        self.go_on()
    }

    /// Keeps an error of one snapshot. A request to stop is passed on instead.
    pub(super) fn keep(&mut self, id: SnapshotId, error: StoreError) -> Result<(), StoreError> {
        if matches!(error, StoreError::Interrupted) {
            return Err(error);
        }
        self.problems.push(Problem::new(id, &error));
        Ok(())
    }

    /// Keeps the error of a result, and hands out its value.
    pub(super) fn sift<T>(
        &mut self,
        id: SnapshotId,
        result: Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) => self.keep(id, error).map(|()| None),
        }
    }

    /// Keeps what is wrong with a file.
    pub(super) fn damaged(&mut self, id: SnapshotId, path: &RelPath, problem: impl Into<String>) {
        let error = StoreError::damaged(path, problem);
        self.problems.push(Problem::new(id, &error));
    }

    pub(super) fn into_report(self) -> VerifyReport {
        VerifyReport {
            ok: self.problems.is_empty(),
            snapshots: self.progress.snapshots,
            left: self
                .progress
                .snapshots_total
                .saturating_sub(self.progress.snapshots),
            bytes: self.progress.bytes,
            unbound_pages: self.unbound_pages,
            errors: self.problems,
        }
    }

    fn go_on(&mut self) -> Result<(), StoreError> {
        match (self.tell)(self.progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(StoreError::Interrupted),
        }
    }
}

impl Problem {
    fn new(snapshot: SnapshotId, error: &StoreError) -> Self {
        let mut message = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            message = format!("{message}: {error}");
            cause = error.source();
        }
        Self {
            snapshot,
            file: error.path().map(str::to_owned),
            offset: error.offset(),
            kind: error.kind(),
            message,
            hint: error.hint(),
        }
    }
}
