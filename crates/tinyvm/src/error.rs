//! What can go wrong with a guest.

use std::io;

use hypervisor_bridge::{NotGathered, ReloadError, RestoreError, SnapshotError, StepError};
use snapshot_memory::{DirtyError, MemoryError};

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

impl From<ReloadError> for GuestError {
    fn from(error: ReloadError) -> Self {
        match error {
            ReloadError::Restore(error) => Self::Restore(error),
            error => Self::Reload(error),
        }
    }
}
