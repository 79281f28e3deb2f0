//! Why a task did not pass.

use std::fmt;

/// Why a task did not pass.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The task was asked for in the wrong way: exit code 2.
    Usage(String),
    /// The task ran and failed, or could not run: exit code 1.
    Failed(String),
}

impl Failure {
    /// A wrong command line.
    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self::Usage(message.to_string())
    }

    /// A failed task.
    pub(crate) fn failed(message: impl fmt::Display) -> Self {
        Self::Failed(message.to_string())
    }
}
