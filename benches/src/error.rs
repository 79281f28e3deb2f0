//! Why a benchmark could not be run.

use std::io;
use std::path::{Path, PathBuf};

use snapshot_format::{DecodeError, NameError};
use snapshot_memory::{DirectoryError, PublishError, SinkError};

/// A benchmark that could not be run; a slow one is no error.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    /// A file or directory of a contestant.
    #[error("{operation} {}", path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Memory for the guest or for a buffer.
    #[error("map {len_bytes} bytes of memory")]
    Map {
        /// How much.
        len_bytes: usize,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A snapshot of ours could not be written.
    #[error("write a snapshot")]
    Sink(#[from] SinkError),
    /// A snapshot of ours could not be published.
    #[error("publish a snapshot")]
    Publish(#[from] PublishError),
    /// A parent of ours could not be read.
    #[error("open the parent")]
    Directory(#[from] DirectoryError),
    /// A name of ours.
    #[error("name the machine")]
    Name(#[from] NameError),
    /// A diff without a snapshot that it is relative to.
    #[error("a diff was asked for and there is no parent")]
    NoParent,
    /// The peer failed.
    #[error("squib-snapshot")]
    Squib(#[from] squib_snapshot::SnapshotError),
    /// State did not decode.
    #[error("decode state")]
    Decode(#[from] DecodeError),
    /// State decodes to other values than were encoded.
    #[error("the state that was decoded is not the one that was encoded")]
    StateDiffers,
    /// A thread that removes files.
    #[error("a thread that removes measured files panicked")]
    Panicked,
    /// A chart.
    #[error("draw {}: {reason}", path.display())]
    Chart {
        /// Which.
        path: PathBuf,
        /// What the drawing library says.
        reason: String,
    },
    /// The report.
    #[error("the report is not as it should be")]
    Json(#[source] serde_json::Error),
}

impl BenchError {
    /// Names the operation and the path of an [`io::Error`].
    pub(crate) fn at(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File {
            operation,
            path,
            source,
        }
    }
}
