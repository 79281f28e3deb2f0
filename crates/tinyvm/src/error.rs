//! What can go wrong with a guest.

use std::io;

use hypervisor_bridge::{NotGathered, ReloadError, RestoreError, SnapshotError, StepError};
use snapshot_memory::{DirtyError, MemoryError, MemoryFailure, ServeError, UffdError};

use crate::proof::Program;

/// Making, running, saving or restoring a guest failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuestError {
    /// A size of memory that the guest cannot have.
    #[error("{found} bytes of guest memory: a power of two from 2 MiB to 1 GiB is needed")]
    MemorySize {
        /// What was asked for.
        found: u64,
    },
    /// The configuration in the snapshot is not that of a guest of this crate.
    #[error("the snapshot's configuration of {len} bytes is not one of this guest")]
    ForeignConfig {
        /// Its length in bytes.
        len: usize,
    },
    /// The snapshot has no machine state, or that of another backend.
    #[error("the snapshot holds no state of a guest on the {wanted} backend")]
    ForeignState {
        /// What was asked for.
        wanted: &'static str,
    },
    /// A program that only a KVM machine can run.
    #[error("the program {} runs on a KVM machine only", program.name())]
    NeedsKvm {
        /// Which.
        program: Program,
    },
    /// A program whose memory cannot be computed apart from its guest.
    #[error("there is no replay of the program {}: it depends on its interrupts", program.name())]
    NoReplay {
        /// Which.
        program: Program,
    },
    /// A guest stands where a replay of it had been before.
    #[error("the guest went back from write {from} to write {to}")]
    WentBack {
        /// Writes that the replay had done.
        from: u64,
        /// Writes that the guest has done.
        to: u64,
    },
    /// The memory of a snapshot is not that of its configuration.
    #[error("the snapshot's {len_bytes} bytes of memory are not what its configuration says")]
    ForeignMemory {
        /// How much it has.
        len_bytes: u64,
    },
    /// Pages of the running guest are lost: it does not run any more, and saw nothing wrong.
    #[error("the guest was stopped")]
    MemoryLost {
        /// What was lost, and why.
        #[source]
        source: Box<MemoryFailure>,
    },
    /// There is no KVM, or it is not for this user.
    #[error("KVM cannot be used here; use the process backend")]
    NoKvm {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The system refused something that a guest needs.
    #[error("{call}")]
    System {
        /// What was tried.
        call: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The guest did something that its program does not do.
    #[error("the guest left in a way that its program does not know: {exit}")]
    UnexpectedExit {
        /// How.
        exit: String,
    },
    /// The thread that runs the guest ended.
    #[error("the thread of the guest ended: {reason}")]
    ThreadEnded {
        /// Why.
        reason: String,
    },
    /// The guest did not stop.
    #[error(transparent)]
    NotGathered(#[from] NotGathered),
    /// Guest memory could not be reached.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Pages could not be served.
    #[error(transparent)]
    Serve(Box<ServeError>),
    /// Written pages could not be tracked.
    #[error(transparent)]
    Dirty(#[from] DirtyError),
    /// No snapshot was taken.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// Nothing was restored.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// A restored machine was not compared with its snapshot.
    #[error(transparent)]
    Reload(ReloadError),
    /// The hypervisor's state could not be reached.
    #[error(transparent)]
    State(StepError),
}

impl GuestError {
    /// Whether this host cannot serve pages to a guest; it can copy them.
    #[must_use]
    pub fn is_for_want_of_userfaultfd(&self) -> bool {
        let Self::Serve(error) = self else {
            return false;
        };
        let lacks =
            |error: &UffdError| matches!(error, UffdError::Lacks { .. } | UffdError::NotPermitted);
        matches!(&**error, ServeError::Uffd(error) if lacks(error))
    }
}

impl From<ServeError> for GuestError {
    fn from(error: ServeError) -> Self {
        Self::Serve(Box::new(error))
    }
}

impl From<ReloadError> for GuestError {
    fn from(error: ReloadError) -> Self {
        match error {
            ReloadError::Restore(error) => Self::Restore(error),
            error => Self::Reload(error),
        }
    }
}
