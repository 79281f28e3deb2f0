//! Why a benchmark could not be run.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use hypervisor_bridge::{SnapshotError, StepError};
use snapshot_format::{DecodeError, NameError, ParseIdError};
use snapshot_memory::{
    DirectoryError, DirtyError, ImageError, NoPlan, PublishError, RestoreMemoryError, ServeError,
    SinkError, WorkingSetError,
};
use snapshot_store::StoreError;
use snapshot_vault::VaultError;

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
    /// An id of ours.
    #[error("name the snapshot")]
    Id(#[from] ParseIdError),
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
    /// The store of ours.
    #[error("store")]
    Store(#[from] StoreError),
    /// A job without its description.
    #[error("a process that is to do a job was not told which")]
    NoJob,
    /// A process that does a job said nothing.
    #[error("a process ended without an answer")]
    NoAnswer,
    /// A process that does a job failed.
    #[error("a process failed: {status}")]
    Child {
        /// How it ended.
        status: ExitStatus,
    },
    /// Two that read the same pages found other bytes.
    #[error("{who} read other bytes than {other} in {case}")]
    Differs {
        /// One.
        who: String,
        /// The other.
        other: String,
        /// Where.
        case: String,
    },
    /// An address outside of guest memory.
    #[error("guest memory ends before offset {offset:#x}")]
    Outside {
        /// Where it was read.
        offset: u64,
    },
    /// A call to KVM.
    #[error("{call}")]
    Kvm {
        /// Which.
        call: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Guest memory could not be served.
    #[error("serve guest memory")]
    Serve(#[source] Box<ServeError>),
    /// No way of restoring does what a case is about.
    #[error("plan a restore")]
    Plan(#[source] Box<NoPlan>),
    /// Guest memory could not be put in place.
    #[error("restore guest memory")]
    Restore(#[source] Box<RestoreMemoryError>),
    /// A snapshot of ours could not be read.
    #[error("read a snapshot")]
    Image(#[source] Box<ImageError>),
    /// A working set could not be recorded, written or brought back.
    #[error("working set")]
    WorkingSet(#[source] Box<WorkingSetError>),
    /// A snapshot without a working set where one is replayed.
    #[error("the snapshot has no working set")]
    NoWorkingSet,
    /// A part of a machine.
    #[error("a machine of the bench")]
    Step(#[source] StepError),
    /// A snapshot of a machine.
    #[error("freeze a machine")]
    Snapshot(#[source] Box<SnapshotError>),
    /// Dirty pages of a machine.
    #[error("track written pages")]
    Dirty(#[from] DirtyError),
    /// A guest did something else than its program says.
    #[error("the guest left its program: {exit}")]
    Guest {
        /// What it did.
        exit: String,
    },
    /// The cold tier.
    #[error("vault")]
    Vault(#[from] VaultError),
    /// A program that is measured beside ours.
    #[error("{program}: {reason}")]
    Peer {
        /// Which.
        program: &'static str,
        /// What it said.
        reason: String,
    },
    /// What was restored is not what was stored.
    #[error("{program} restored other bytes than it was given")]
    RestoredDiffers {
        /// By whom.
        program: &'static str,
    },
    /// Guest memory is made of programs.
    #[error("there is no program on this host to make guest memory of")]
    NoPrograms,
    /// The report.
    #[error("the report is not as it should be")]
    Json(#[source] serde_json::Error),
}

/// Makes large errors, which are boxed, ones of a benchmark.
macro_rules! from_boxed {
    ($($variant:ident($error:ty)),* $(,)?) => {$(
        impl From<$error> for BenchError {
            fn from(error: $error) -> Self {
                Self::$variant(Box::new(error))
            }
        }
    )*};
}

from_boxed! {
    Image(ImageError),
    Plan(NoPlan),
    Restore(RestoreMemoryError),
    Serve(ServeError),
    Snapshot(SnapshotError),
    WorkingSet(WorkingSetError),
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
