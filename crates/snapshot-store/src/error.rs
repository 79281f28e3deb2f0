//! Why an operation of the store failed, and what to do about it.

use std::io;

use snapshot_format::{
    DecodeError, ErrorKind as DecodeErrorKind, Operation, SnapshotId, SnapshotRef, VmName,
};
use snapshot_memory::backend::{self, RelPath};
use snapshot_memory::{FrameCodecError, ImageError, PublishError, SinkError, WorkingSetError};

use crate::checked_json::Fault;
use crate::consolidation::ConsolidationPolicyError;
use crate::retention::PolicyError;

mod causes;
mod listed;
mod refusal;
mod working_set;

pub use causes::with_causes;
use listed::{Holders, Listed};
pub use refusal::Refusal;

/// What a caller does about an error. Each kind is one exit code of the command-line tool.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// Anything that has no kind of its own: exit code 1.
    Failed,
    /// What was asked for cannot be meant: exit code 2.
    Usage,
    /// No such snapshot, virtual machine or store: exit code 3.
    NotFound,
    /// Bytes on disk are not what was written: exit code 4.
    Corrupt,
    /// Another parent or another machine is needed: exit code 5.
    Incompatible,
    /// Somebody else holds what is needed: exit code 6.
    Busy,
    /// The file system or a quota is full: exit code 7.
    NoSpace,
    /// It happened, but may not survive a loss of power: exit code 8.
    DurabilityUncertain,
    /// Written by a later version: exit code 9.
    TooNew,
    /// It is there already: exit code 12.
    Exists,
    /// Protected or in use: exit code 13.
    Refused,
    /// Stopped on request: exit code 130.
    Interrupted,
}

/// An operation of the store failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A text that refers to nothing.
    #[error("{text:?} does not name a snapshot")]
    InvalidReference {
        /// What was given.
        text: String,
    },
    /// More than one snapshot is meant.
    #[error("{text:?} could mean {} snapshots: {}", candidates.len(), Listed(candidates))]
    Ambiguous {
        /// What was given.
        text: String,
        /// What it could mean.
        candidates: Vec<SnapshotId>,
    },
    /// A text that is not what it was given as.
    #[error("{text:?} is no {what}")]
    InvalidText {
        /// What was given, or the beginning of it.
        text: String,
        /// What it was to be.
        what: &'static str,
    },
    /// A count beyond its cap.
    #[error("too many {what}: at most {limit} are allowed")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// The cap.
        limit: usize,
    },
    /// There is no such snapshot, virtual machine or store.
    #[error("{what} does not exist")]
    NotFound {
        /// What was looked for.
        what: String,
    },
    /// It is there already.
    #[error("{what} exists already")]
    Exists {
        /// What was to be made.
        what: String,
    },
    /// A file is not what was written.
    #[error("{path} is damaged: {problem}")]
    Damaged {
        /// Which file.
        path: RelPath,
        /// What is wrong.
        problem: String,
    },
    /// A file that must be there is not.
    #[error("{path} is missing")]
    MissingFile {
        /// Which file.
        path: RelPath,
    },
    /// A file cannot be decoded.
    #[error("read {path}")]
    Decode {
        /// Which file.
        path: RelPath,
        /// Why.
        #[source]
        source: DecodeError,
    },
    /// A file was written by a later version.
    #[error("{path} has version {found}, and this build reads up to {supported}")]
    TooNew {
        /// Which file.
        path: RelPath,
        /// Its version.
        found: u32,
        /// The last version that can be read.
        supported: u32,
    },
    /// A sound file that may not be used in this way by a build that does not know all of it.
    #[error(
        "{path} uses features {bits:#x}, which this build does not know: it cannot {operation} the \
         snapshot"
    )]
    Feature {
        /// Which file.
        path: RelPath,
        /// What was asked for.
        operation: Operation,
        /// The unknown bits of that operation's word.
        bits: u32,
    },
    /// A materialised image that is not the memory of its snapshot, which is as good without it.
    #[error("{path} is damaged: {problem}")]
    CachedImage {
        /// Which file.
        path: RelPath,
        /// What is wrong.
        problem: String,
    },
    /// The file system has less room than a file needs. Nothing was written.
    #[error("{path} needs {needed_bytes} bytes, and {free_bytes} are free")]
    NoRoom {
        /// Which file.
        path: RelPath,
        /// What it needs at most.
        needed_bytes: u64,
        /// What is free to this user.
        free_bytes: u64,
    },
    /// The snapshots of a machine would take more than its policy allows. Nothing was written.
    #[error("{needed_bytes} bytes more for VM {vm}, which takes {used_bytes} of {quota_bytes}")]
    Quota {
        /// Which machine.
        vm: VmName,
        /// What the snapshot needs at most.
        needed_bytes: u64,
        /// What snapshots take, deleted ones included.
        used_bytes: u64,
        /// What they may take.
        quota_bytes: u64,
    },
    /// A policy that cannot be used.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// A policy on chains that cannot be used.
    #[error(transparent)]
    ConsolidationPolicy(#[from] ConsolidationPolicyError),
    /// The parent is not the snapshot that the pages are relative to.
    #[error("wrong parent {}: {problem}", expected.id)]
    WrongParent {
        /// The parent as it was named.
        expected: SnapshotRef,
        /// What is wrong with it.
        problem: String,
    },
    /// Somebody else held a lock for too long.
    #[error("waited {waited_ms} ms for {path}, {}", Holders(holders))]
    Busy {
        /// The lock.
        path: RelPath,
        /// The processes that hold it, as far as the system tells.
        holders: Vec<u32>,
        /// How long was waited.
        waited_ms: u64,
    },
    /// Another writer was faster.
    #[error("{what} changed in the meantime")]
    Overtaken {
        /// What was to be changed.
        what: String,
    },
    /// The snapshot may not be deleted.
    #[error("snapshot {id} is {reason}")]
    Refused {
        /// Which.
        id: SnapshotId,
        /// Why.
        reason: Refusal,
    },
    /// Advisory locks do not reach other hosts there.
    #[error("the store lies on a network file system ({file_system})")]
    NetworkFileSystem {
        /// Its type.
        file_system: String,
    },
    /// Nothing may be written.
    #[error("the store can only be read")]
    ReadOnly,
    /// A change was made, and may not survive a loss of power.
    #[error("{what} is in place, and may not survive a loss of power")]
    DurabilityUncertain {
        /// What was changed.
        what: String,
        /// Why it could not be made durable.
        #[source]
        source: io::Error,
    },
    /// A call of the operating system failed.
    #[error("{action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: RelPath,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Memory could not be read, or is not what was written.
    #[error(transparent)]
    Image {
        /// Which file, and what is wrong with it.
        source: Box<ImageError>,
    },
    /// A working set could not be read or written, or is not the snapshot's. The snapshot is as
    /// good without it.
    #[error(transparent)]
    WorkingSet {
        /// Which file, and what is wrong with it.
        source: Box<WorkingSetError>,
    },
    /// A snapshot could not be written.
    #[error(transparent)]
    Sink {
        /// Why.
        source: Box<SinkError>,
    },
    /// A snapshot could not be published, for a reason that this build has no word for.
    #[error(transparent)]
    Publish {
        /// Why.
        source: Box<PublishError>,
    },
    /// A way to compress that there is not.
    #[error(transparent)]
    Codec(FrameCodecError),
    /// It was stopped on request.
    #[error("interrupted")]
    Interrupted,
    /// A value could not be written as JSON.
    #[error("encode a JSON file")]
    EncodeJson {
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

impl StoreError {
    /// What a caller branches on.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::InvalidReference { .. }
            | Self::Ambiguous { .. }
            | Self::InvalidText { .. }
            | Self::TooMany { .. }
            | Self::Policy(_)
            | Self::ConsolidationPolicy(_)
            | Self::Codec(FrameCodecError::Level { .. }) => ErrorKind::Usage,
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Exists { .. } => ErrorKind::Exists,
            Self::Damaged { .. } | Self::MissingFile { .. } | Self::CachedImage { .. } => {
                ErrorKind::Corrupt
            }
            Self::NoRoom { .. } | Self::Quota { .. } => ErrorKind::NoSpace,
            Self::Decode { source, .. } => match source.kind() {
                DecodeErrorKind::TooNew | DecodeErrorKind::Unsupported => ErrorKind::TooNew,
                _ => ErrorKind::Corrupt,
            },
            Self::TooNew { .. } | Self::Feature { .. } => ErrorKind::TooNew,
            Self::WrongParent { .. } => ErrorKind::Incompatible,
            Self::Busy { .. } | Self::Overtaken { .. } => ErrorKind::Busy,
            Self::Refused { .. } | Self::NetworkFileSystem { .. } => ErrorKind::Refused,
            Self::DurabilityUncertain { .. } => ErrorKind::DurabilityUncertain,
            Self::Io { source, .. } => kind_of_io(source),
            Self::Image { source } => kind_of_image(source),
            Self::WorkingSet { source } => working_set::kind_of(source),
            Self::Sink { source } => kind_of_sink(source),
            Self::Interrupted => ErrorKind::Interrupted,
            Self::ReadOnly | Self::EncodeJson { .. } | Self::Publish { .. } | Self::Codec(_) => {
                ErrorKind::Failed
            }
        }
    }

    /// The file or lock that the error is about, below the root of the store.
    #[must_use]
    pub fn path(&self) -> Option<&str> {
        match self {
            Self::Damaged { path, .. }
            | Self::MissingFile { path }
            | Self::CachedImage { path, .. }
            | Self::NoRoom { path, .. }
            | Self::Decode { path, .. }
            | Self::TooNew { path, .. }
            | Self::Feature { path, .. }
            | Self::Busy { path, .. }
            | Self::Io { path, .. } => Some(path.as_str()),
            Self::Image { source } => source.file(),
            Self::WorkingSet { source } => source.file(),
            Self::Sink { source } => match source.as_ref() {
                SinkError::File(error) => Some(error.path.as_str()),
                SinkError::EngineRefused { path, .. } => Some(path.as_str()),
                SinkError::Parent(error) => error.file(),
                _ => None,
            },
            _ => None,
        }
    }

    /// Where in that file, in bytes.
    #[must_use]
    pub fn offset(&self) -> Option<u64> {
        match self {
            Self::Decode { source, .. } => source.offset(),
            Self::Image { source } => source.offset(),
            Self::WorkingSet { source } => source.offset(),
            _ => None,
        }
    }

    /// What to do about it; empty where there is nothing to add.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::InvalidReference { .. } => {
                "give an id, the unique beginning or end of one, VM/NAME or VM@latest"
            }
            Self::Ambiguous { .. } => "give more of the id",
            Self::Decode { source, .. } => source.hint(),
            Self::Feature { .. } => {
                "use the version that wrote the file, or a later one; whatever else this build can \
                 do with the snapshot it still does"
            }
            Self::NetworkFileSystem { .. } => {
                "open it with --single-host if no other host uses it at the same time"
            }
            Self::Refused { reason, .. } => reason.hint(),
            Self::DurabilityUncertain { .. } => {
                "look whether it is there, and verify it; take the next diff relative to the old parent"
            }
            Self::Overtaken { .. } => "try again",
            Self::Quota { .. } => "delete or prune snapshots and run gc, or raise the quota",
            Self::CachedImage { .. } => {
                "drop it, and build it again; the snapshot restores without"
            }
            Self::WorkingSet { .. } if self.kind() == ErrorKind::Corrupt => {
                "record the working set anew, or drop it; the snapshot restores without"
            }
            Self::ReadOnly => "ask for write permission, or mount the file system for writing",
            _ => match self.kind() {
                ErrorKind::Corrupt => {
                    "run repair, with --vault where it was archived, or put back a copy of the file"
                }
                ErrorKind::TooNew => "use the version that wrote the file, or a later one",
                ErrorKind::Busy => "wait for that process, or raise the time to wait",
                ErrorKind::NoSpace => "free space, or raise the quota, and try again",
                ErrorKind::Incompatible => "name the snapshot that the changes are relative to",
                _ => "",
            },
        }
    }

    pub(crate) fn io(action: &'static str, path: &RelPath, source: io::Error) -> Self {
        Self::Io {
            action,
            path: path.clone(),
            source,
        }
    }

    pub(crate) fn damaged(path: &RelPath, problem: impl Into<String>) -> Self {
        Self::Damaged {
            path: path.clone(),
            problem: problem.into(),
        }
    }

    pub(crate) fn decode(path: &RelPath, source: DecodeError) -> Self {
        Self::Decode {
            path: path.clone(),
            source,
        }
    }

    pub(crate) fn image(source: ImageError) -> Self {
        Self::Image {
            source: Box::new(source),
        }
    }

    pub(crate) fn fault(path: &RelPath, fault: Fault) -> Self {
        match fault {
            Fault::Corrupt(problem) => Self::damaged(path, problem),
            Fault::TooNew { found, supported } => Self::TooNew {
                path: path.clone(),
                found,
                supported,
            },
        }
    }

    /// Whether a file was not there.
    pub(crate) fn is_missing_file(&self) -> bool {
        matches!(self, Self::MissingFile { .. })
    }
}

fn kind_of_sink(error: &SinkError) -> ErrorKind {
    match error {
        SinkError::File(error) => kind_of_io(&error.source),
        SinkError::WrongParent { .. } | SinkError::LayoutDiffers => ErrorKind::Incompatible,
        SinkError::DirtyPageCount { .. }
        | SinkError::EngineRefused { .. }
        | SinkError::Twice { .. }
        | SinkError::Missing { .. }
        | SinkError::Unreadable { .. } => ErrorKind::Usage,
        SinkError::Parent(error) => kind_of_image(error),
        SinkError::Cancelled => ErrorKind::Interrupted,
        SinkError::NoRoom { .. } => ErrorKind::NoSpace,
        _ => ErrorKind::Failed,
    }
}

fn kind_of_image(error: &ImageError) -> ErrorKind {
    match (error.kind(), error) {
        (Some(DecodeErrorKind::TooNew | DecodeErrorKind::Unsupported), _) => ErrorKind::TooNew,
        (Some(_), _) => ErrorKind::Corrupt,
        (None, ImageError::File { source, .. }) => kind_of_io(source),
        (None, _) => ErrorKind::Failed,
    }
}

impl From<ImageError> for StoreError {
    fn from(error: ImageError) -> Self {
        Self::image(error)
    }
}

/// What an error of the operating system means to a caller.
pub(crate) fn kind_of_io(error: &io::Error) -> ErrorKind {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => ErrorKind::Corrupt,
        io::ErrorKind::WouldBlock => ErrorKind::Busy,
        io::ErrorKind::Interrupted => ErrorKind::Interrupted,
        // Something else was planted where a file of the store belongs.
        _ if backend::Refusal::of(error).is_some() => ErrorKind::Corrupt,
        _ => ErrorKind::Failed,
    }
}

#[cfg(test)]
mod tests;
