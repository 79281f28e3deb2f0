//! Why a disk could not be had.

use std::io;
use std::path::{Path, PathBuf};

/// Making or using a disk of its own failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// A program of the host could not be started.
    #[error("start {program}")]
    Start {
        /// Which program.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A program of the host failed.
    #[error("{command} ended with {status}: {stderr}")]
    Command {
        /// The whole command line.
        command: String,
        /// How it ended.
        status: String,
        /// What it said, on one line.
        stderr: String,
    },
    /// A file or directory of the check.
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
}

impl MountError {
    /// Names the operation and the path of an error.
    pub(crate) fn at<E: Into<io::Error>>(
        operation: &'static str,
        path: &Path,
    ) -> impl FnOnce(E) -> Self {
        let path = path.to_owned();
        move |source| Self::File {
            operation,
            path,
            source: source.into(),
        }
    }
}
