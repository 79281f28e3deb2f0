//! Why a check could not be run; what it finds is no error but a violation.

use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

/// The machinery of the check failed: nothing is known about the command.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlockError {
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
    /// The traced command could not be watched.
    #[error("trace: {call}")]
    Trace {
        /// What was tried.
        call: &'static str,
        /// Why it failed.
        #[source]
        source: Errno,
    },
    /// A command that nobody disturbed did not do its work.
    #[error("{step}, undisturbed: {problem}")]
    Undisturbed {
        /// Which command.
        step: &'static str,
        /// What was wrong with it.
        problem: String,
    },
}

impl BlockError {
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

    /// Names a call on the traced command.
    pub(crate) fn trace(call: &'static str) -> impl FnOnce(Errno) -> Self {
        move |source| Self::Trace { call, source }
    }
}
