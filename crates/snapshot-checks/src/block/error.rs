//! Why a check could not be run; what it finds is no error but a violation.

use nix::errno::Errno;

use crate::mount::MountError;

/// The machinery of the check failed: nothing is known about the command.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlockError {
    /// A disk could not be made, mounted or changed.
    #[error(transparent)]
    Mount(#[from] MountError),
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
    /// Names a call on the traced command.
    pub(crate) fn trace(call: &'static str) -> impl FnOnce(Errno) -> Self {
        move |source| Self::Trace { call, source }
    }
}
