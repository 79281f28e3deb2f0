//! What can go wrong with a working set. None of it takes anything from the snapshot.

use std::error::Error;
use std::io;

use serde::Serialize;
use snapshot_format::{DecodeError, PageRange, SnapshotId};

use crate::error::FileError;
use crate::restore::SourceError;

/// A working set could not be recorded, written, read or replayed. The snapshot is as good without
/// it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkingSetError {
    /// The file system failed.
    #[error("{operation} {file}")]
    File {
        /// What was tried.
        operation: &'static str,
        /// The file.
        file: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file could not be written.
    #[error(transparent)]
    Write(#[from] FileError),
    /// A file that does not hold what it must.
    #[error("{file} is damaged; record the working set anew")]
    Damaged {
        /// The file.
        file: String,
        /// What is wrong, and where.
        #[source]
        source: DecodeError,
    },
    /// A sound file of another snapshot, or of one with other memory.
    #[error("{file} is the working set of snapshot {found} and not of this {expected}")]
    OtherSnapshot {
        /// The file.
        file: String,
        /// Whose it must be.
        expected: SnapshotId,
        /// Whose it is.
        found: SnapshotId,
    },
    /// A memory of another size than that of the snapshot.
    #[error("a working set of an image of {expected} pages for memory of {found}")]
    PageCount {
        /// Pages of the image.
        expected: u64,
        /// Pages of the memory.
        found: u64,
    },
    /// The snapshot has other bytes.
    #[error("{file} has other bytes for the image pages {}..{} than the snapshot; record it anew", pages.start.0, pages.end().0)]
    Differs {
        /// The file.
        file: String,
        /// Which pages.
        pages: PageRange,
    },
    /// The pages of the snapshot could not be read.
    #[error("read the pages of a working set from the snapshot")]
    Source(#[from] SourceError),
    /// Nothing was touched: a working set has pages.
    #[error("no page was touched, so that there is no working set to write")]
    Empty,
    /// The system does not tell which pages were touched.
    #[error("ask which pages were touched: {call}")]
    Record {
        /// The call.
        call: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The memory to be asked is not mapped in this process.
    #[error("memory that is not mapped in this process cannot be asked for its pages")]
    NotMapped,
    /// Pages could not be put in place.
    #[error("put image pages {}..{} of a working set in place", pages.start.0, pages.end().0)]
    Place {
        /// Which pages.
        pages: PageRange,
        /// Why.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// Whoever keeps the working set cannot open it, or make a new one count.
    #[error("use the working set that is kept")]
    Keeper {
        /// What that means to a restore.
        fault: WorkingSetFault,
        /// Why.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// Which pages the guest touched cannot be known.
    #[error("which pages the guest touched cannot be known: {why}")]
    NotObserved {
        /// Why.
        why: &'static str,
    },
    /// The caller asked for the end.
    #[error("the replay of a working set was cancelled")]
    Cancelled,
    /// No thread could be started for it.
    #[error("start a thread that brings a working set")]
    NoThread(#[source] io::Error),
    /// A helping thread panicked.
    #[error("a thread that replays a working set panicked")]
    Panicked,
}

/// Why a restore went on without a working set, or without a part of it, in a word.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum WorkingSetFault {
    /// There is none now, or none was given.
    Missing,
    /// The file does not hold what it must.
    Damaged,
    /// It is of another snapshot, or of other memory.
    Foreign,
    /// It cannot be read.
    Unreadable,
    /// Its pages could not be put in place.
    NotPlaced,
    /// The end was asked for.
    Cancelled,
}

impl WorkingSetError {
    /// What it means to a restore.
    #[must_use]
    pub fn fault(&self) -> WorkingSetFault {
        match self {
            Self::Damaged { .. } | Self::Differs { .. } => WorkingSetFault::Damaged,
            Self::OtherSnapshot { .. } | Self::PageCount { .. } => WorkingSetFault::Foreign,
            Self::Place { .. } | Self::Panicked | Self::NoThread(_) => WorkingSetFault::NotPlaced,
            Self::Cancelled => WorkingSetFault::Cancelled,
            Self::Keeper { fault, .. } => *fault,
            _ => WorkingSetFault::Unreadable,
        }
    }

    /// The file at fault, if one is.
    #[must_use]
    pub fn file(&self) -> Option<&str> {
        match self {
            Self::File { file, .. }
            | Self::Damaged { file, .. }
            | Self::OtherSnapshot { file, .. }
            | Self::Differs { file, .. } => Some(file),
            Self::Write(error) => Some(error.path.as_str()),
            _ => None,
        }
    }

    /// Where in that file, in bytes.
    #[must_use]
    pub fn offset(&self) -> Option<u64> {
        match self {
            Self::Damaged { source, .. } => source.offset(),
            _ => None,
        }
    }

    /// Names the operation and the file of an [`io::Error`].
    pub(super) fn file_at(operation: &'static str, file: &str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File {
            operation,
            file: file.to_owned(),
            source,
        }
    }

    /// Names the file of a [`DecodeError`].
    pub(super) fn damaged(file: &str) -> impl FnOnce(DecodeError) -> Self {
        move |source| Self::Damaged {
            file: file.to_owned(),
            source,
        }
    }
}
