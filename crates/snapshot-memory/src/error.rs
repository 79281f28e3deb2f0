//! One error enum for each family of operations.

use std::error::Error;
use std::io;

use snapshot_format::{PageRange, SnapshotId, SnapshotRef};

use crate::backend::RelPath;
use crate::image::ImageError;

/// An operation on a file or directory failed.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {path}")]
pub struct FileError {
    /// What was tried: `create`, `write`, `sync`, `rename`, …
    pub operation: &'static str,
    /// On what, below the backend's root.
    pub path: RelPath,
    /// Why it failed; its kind is as the system gave it.
    #[source]
    pub source: io::Error,
}

impl FileError {
    /// Names the operation and the path of an [`io::Error`].
    pub(crate) fn at(operation: &'static str, path: &RelPath) -> impl FnOnce(io::Error) -> Self {
        let path = path.clone();
        move |source| Self {
            operation,
            path,
            source,
        }
    }

    /// Whether the disk is full or a quota is reached: making room and trying again may help.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        matches!(
            self.source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        )
    }
}

/// Reading or writing guest memory failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// Pages beyond the layout were asked for.
    #[error("pages {}..{} lie beyond the {page_count} pages of the guest", range.start.0, range.end().0)]
    OutOfRange {
        /// What was asked for.
        range: PageRange,
        /// What there is.
        page_count: u64,
    },
    /// The buffer is not as long as the pages.
    #[error("a buffer of {found} bytes for {} pages of 4096", range.count)]
    BufferLength {
        /// What was asked for.
        range: PageRange,
        /// The length of the buffer in bytes.
        found: usize,
    },
    /// Pages could not be given back.
    #[error("give back guest pages {}..{}", range.start.0, range.end().0)]
    Discard {
        /// What was to be given back.
        range: PageRange,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The memory could not be read.
    #[error("read guest pages {}..{}", range.start.0, range.end().0)]
    Read {
        /// What was asked for.
        range: PageRange,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The memory could not be written.
    #[error("write guest pages {}..{}", range.start.0, range.end().0)]
    Write {
        /// What was to be written.
        range: PageRange,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl MemoryError {
    /// Refuses a buffer that is not exactly as long as `range`.
    pub fn check_buffer(range: PageRange, len: usize) -> Result<(), Self> {
        let wanted = range.len_bytes().and_then(|len| usize::try_from(len).ok());
        if wanted == Some(len) {
            Ok(())
        } else {
            Err(Self::BufferLength { range, found: len })
        }
    }
}

/// Tracking written pages failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirtyError {
    /// The kernel or the machine lacks what the source needs.
    #[error("dirty source {name} cannot run here: {missing}")]
    Unsupported {
        /// The source.
        name: &'static str,
        /// What is missing, and what to use instead.
        missing: &'static str,
    },
    /// A system call failed.
    #[error("dirty source {name}: {call}")]
    System {
        /// The source.
        name: &'static str,
        /// The call.
        call: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A source watches other memory than the tracker.
    #[error("dirty source {name} watches another memory layout than its tracker")]
    LayoutDiffers {
        /// The source.
        name: &'static str,
    },
    /// A source was given something that makes no sense: a record of a page that is none.
    #[error("dirty source {name} was given what it cannot read: {what}")]
    Invalid {
        /// The source.
        name: &'static str,
        /// What it was given.
        what: String,
    },
    /// A source that cannot follow a change of the memory.
    #[error(
        "dirty source {name} watches one memory layout only; stop tracking and take a full snapshot"
    )]
    FixedLayout {
        /// The source.
        name: &'static str,
    },
    /// The VMM could not change the memory as it wanted to.
    #[error("the memory could not be changed; every page counts as dirty")]
    Change {
        /// Why.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// A granule that is no power of two of at least 4096 bytes.
    #[error(
        "dirty source {name} has a granule of {granule_bytes} bytes; a power of two from 4096 is needed"
    )]
    BadGranule {
        /// The source.
        name: &'static str,
        /// What it said.
        granule_bytes: u64,
    },
    /// A consumer that the tracker does not know, or one that has left.
    #[error("no such consumer of dirty pages; subscribe first")]
    UnknownConsumer,
    /// A commit of an epoch that another epoch of the consumer has overtaken.
    #[error("the epoch is relative to {}, the consumer has moved on to {}", shown(*epoch), shown(*current))]
    WrongBase {
        /// What the epoch is relative to.
        epoch: Option<SnapshotRef>,
        /// Where the consumer stands.
        current: Option<SnapshotRef>,
    },
    /// Memory was plugged or unplugged in the middle of a live snapshot.
    #[error("the memory layout changed while a live snapshot was taken; take it again")]
    Replugged,
    /// Bits of another number of pages.
    #[error("a dirty bitmap of {found} pages where the memory has {expected}")]
    PageCount {
        /// Pages in the bitmap.
        found: u64,
        /// Pages in the memory.
        expected: u64,
    },
}

fn shown(base: Option<SnapshotRef>) -> String {
    base.map_or_else(|| "no snapshot".to_owned(), |base| base.id.to_string())
}

/// Putting a snapshot into a sink failed; nothing of it is visible.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SinkError {
    /// A file of the stage could not be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// Guest memory could not be read.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The bits are relative to another snapshot than the parent.
    #[error("the dirty pages are relative to {}, the parent is {}; take a full snapshot", shown(Some(*found)), shown(*expected))]
    WrongParent {
        /// The parent that the sink was given.
        expected: Option<SnapshotRef>,
        /// What the bits are relative to.
        found: SnapshotRef,
    },
    /// The dirty pages are numbered in another memory layout than the guest's.
    #[error(
        "the dirty pages are of another memory layout than the guest has; tell the tracker when memory \
         is plugged or unplugged"
    )]
    LayoutDiffers,
    /// The bitmap has another number of pages than the guest.
    #[error("a dirty bitmap of {found} pages for a guest of {expected}")]
    DirtyPageCount {
        /// Pages in the bitmap.
        found: u64,
        /// Pages of the guest.
        expected: u64,
    },
    /// The caller asked for the end. Dirty bits stay pending.
    #[error("the snapshot was cancelled")]
    Cancelled,
    /// The file system has less room than the snapshot may need.
    #[error(
        "the snapshot may need {needed_bytes} bytes, and {free_bytes} are free; make room, or move the store"
    )]
    NoRoom {
        /// What it may need at most.
        needed_bytes: u64,
        /// What is free to this user.
        free_bytes: u64,
    },
    /// An engine that was asked for by name cannot write this file.
    #[error("{path} cannot be written by the engine {engine}: {reason}; let the engine be chosen")]
    EngineRefused {
        /// The file.
        path: RelPath,
        /// What was asked for.
        engine: &'static str,
        /// Why not.
        reason: &'static str,
    },
    /// A live snapshot was asked for where none can be taken.
    #[error("no live snapshot can be written here: {reason}")]
    LiveRefused {
        /// Why, and what to do.
        reason: &'static str,
    },
    /// More pages were written last than a live snapshot has room to set aside.
    #[error("{needed_bytes} bytes are to be set aside, and there is room for {room_bytes}")]
    AsideFull {
        /// What is to be copied.
        needed_bytes: u64,
        /// What there is room for.
        room_bytes: u64,
    },
    /// Something that a snapshot has once was given twice.
    #[error("the snapshot has its {what} already")]
    Twice {
        /// What.
        what: &'static str,
    },
    /// Something that a snapshot needs was not given.
    #[error("the snapshot has no {what}")]
    Missing {
        /// What.
        what: &'static str,
    },
    /// A limit of the format is reached.
    #[error("{what}: {found} where the format allows {limit}; {advice}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How many there would be.
        found: u64,
        /// How many there may be.
        limit: u64,
        /// What to do.
        advice: &'static str,
    },
    /// What would be written is nothing that a reader accepts: a configuration beyond its limit,
    /// machine state beyond one, a section given twice.
    #[error("{file} would be refused by every reader")]
    Unreadable {
        /// The name of the file.
        file: String,
        /// Which rule it breaks.
        #[source]
        source: snapshot_format::DecodeError,
    },
    /// The parts of a leaf of the page map do not agree: a fault of this crate.
    #[error("make the page map")]
    Leaf(#[source] snapshot_format::page_map::LeafError),
    /// The page map of the parent could not be read.
    #[error("read the page map of the parent")]
    Parent(#[from] ImageError),
    /// The catalog behind the sink refused, for its own reason.
    #[error(transparent)]
    Catalog(Box<dyn Error + Send + Sync>),
}

/// Publishing a snapshot failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// Nothing is visible, and nothing will be: the dirty bits go back, the stage is discarded.
    #[error("snapshot {id} was not published")]
    NotCommitted {
        /// Which snapshot.
        id: SnapshotId,
        /// Why.
        #[source]
        source: Box<SinkError>,
    },
    /// The snapshot is visible, but may be gone after a power failure: the dirty bits go back and
    /// the base stays the old parent.
    #[error("snapshot {} is visible, but may not survive a power failure; verify it, then take another", snapshot.id)]
    DurabilityUncertain {
        /// Which snapshot.
        snapshot: SnapshotRef,
        /// Why.
        #[source]
        source: FileError,
    },
}
