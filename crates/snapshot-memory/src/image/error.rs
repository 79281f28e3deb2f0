//! What can be wrong with the memory of a snapshot.

use std::io;

use crate::frames::FrameFault;
use snapshot_format::{
    DecodeError, Digest, ErrorKind, GuestPage, Operation, PageRange, SnapshotId,
};

/// Memory of a snapshot could not be read, or is not what was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The file system failed.
    #[error("{operation} {file}")]
    File {
        /// What was tried.
        operation: &'static str,
        /// The file.
        file: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file that the snapshot needs is not there.
    #[error("{file} is missing")]
    Missing {
        /// The file.
        file: String,
    },
    /// A memory map that does not hold what it must.
    #[error("{file} is damaged")]
    Map {
        /// The file.
        file: String,
        /// What is wrong, and where.
        #[source]
        source: DecodeError,
    },
    /// A sound file that may not be used in this way by a build that does not know all of it.
    #[error(
        "{file} uses features {bits:#x}, which this build does not know: it cannot {operation} the snapshot"
    )]
    Feature {
        /// The file.
        file: String,
        /// What was asked for.
        operation: Operation,
        /// The unknown bits of that operation's word.
        bits: u32,
    },
    /// A memory map that is sound, and not the one that was asked for.
    #[error(
        "{file} has the root digest {found} where {expected} of snapshot {snapshot} is needed: it \
         was replaced or comes from another snapshot"
    )]
    OtherMap {
        /// The file.
        file: String,
        /// Whose memory it must be.
        snapshot: SnapshotId,
        /// The root digest that is needed.
        expected: Digest,
        /// The root digest of the file.
        found: Digest,
    },
    /// A data file that is not as long as its map says.
    #[error("{file} has {found} bytes where its map says {expected}: it was cut or replaced")]
    DataLength {
        /// The file.
        file: String,
        /// What the map says.
        expected: u64,
        /// How long it is.
        found: u64,
    },
    /// Pages whose bytes are not what was written.
    #[error(
        "{file} at offset {offset:#x}: digest {stored} is stored for these {len_bytes} bytes \
         (guest page {:#x} on), {computed} computed", page.0
    )]
    DataDigest {
        /// The file.
        file: String,
        /// Where the damaged bytes start.
        offset: u64,
        /// How many bytes the digest covers.
        len_bytes: u64,
        /// The first guest page that they hold.
        page: GuestPage,
        /// The digest in the map.
        stored: Digest,
        /// The digest of the bytes.
        computed: Digest,
    },
    /// A frame whose bytes are not what was stored, or that does not decode to its pages.
    #[error(
        "{file} at offset {offset:#x}: a frame of {len_bytes} bytes is damaged; put back a copy of \
         the file"
    )]
    Frame {
        /// The file.
        file: String,
        /// Where the frame starts.
        offset: u64,
        /// How many bytes it takes in the file.
        len_bytes: u32,
        /// What is wrong with it.
        #[source]
        source: FrameFault,
    },
    /// Bytes that belong to no page and are not zero.
    #[error("{file} at offset {offset:#x}: bytes that belong to no stored page must be zero")]
    Stray {
        /// The file.
        file: String,
        /// Where the first of them is.
        offset: u64,
    },
    /// A map whose leaves contradict each other.
    #[error("guest page {:#x} is owned by {file}, which does not hold it", page.0)]
    NotHeld {
        /// The data file that should hold the page.
        file: String,
        /// The page.
        page: GuestPage,
    },
    /// A leaf of the flattened map that was made for other memory than the snapshot has.
    #[error("leaf {leaf} of the page map is of other memory than the snapshot has")]
    LeafMemory {
        /// The leaf.
        leaf: u32,
    },
    /// The files given do not match the table of leaves.
    #[error("the page map names data file {file}, and {found} are given")]
    NoSuchFile {
        /// Which is named, counted from 1.
        file: u16,
        /// How many there are.
        found: usize,
    },
    /// A data file that was laid out anew, and holds other memory than the one before it.
    #[error("{file} does not hold the memory that {first} describes: {what}")]
    OtherMemory {
        /// The file: the map, or the data where its bytes are at fault.
        file: String,
        /// The map that the manifest names.
        first: String,
        /// What differs.
        what: String,
    },
    /// A data file at another place of the chain than its map says.
    #[error("{file} says it is data file {found} of its chain, and is given as number {expected}")]
    FileNumber {
        /// The file.
        file: String,
        /// Where it is given.
        expected: usize,
        /// What it says.
        found: u16,
    },
    /// Pages beyond the layout were asked for.
    #[error("pages {}..{} lie beyond the {page_count} pages of the image", range.start.0, range.end().0)]
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
}

impl ImageError {
    /// The class of the error, where the bytes are at fault; `None` where the file system or the
    /// caller is.
    #[must_use]
    pub fn kind(&self) -> Option<ErrorKind> {
        match self {
            Self::Map { source, .. } => Some(source.kind()),
            Self::Feature { .. } => Some(ErrorKind::Unsupported),
            Self::File { source, .. } if source.kind() == io::ErrorKind::UnexpectedEof => {
                Some(ErrorKind::Corrupt)
            }
            Self::File { .. } | Self::OutOfRange { .. } | Self::BufferLength { .. } => None,
            _ => Some(ErrorKind::Corrupt),
        }
    }

    /// The file at fault, if one is.
    #[must_use]
    pub fn file(&self) -> Option<&str> {
        match self {
            Self::File { file, .. }
            | Self::Missing { file }
            | Self::Map { file, .. }
            | Self::Feature { file, .. }
            | Self::OtherMap { file, .. }
            | Self::DataLength { file, .. }
            | Self::DataDigest { file, .. }
            | Self::Frame { file, .. }
            | Self::Stray { file, .. }
            | Self::NotHeld { file, .. }
            | Self::OtherMemory { file, .. }
            | Self::FileNumber { file, .. } => Some(file),
            Self::LeafMemory { .. }
            | Self::NoSuchFile { .. }
            | Self::OutOfRange { .. }
            | Self::BufferLength { .. } => None,
        }
    }

    /// Where in the file, in bytes, if that is known.
    #[must_use]
    pub fn offset(&self) -> Option<u64> {
        match self {
            Self::Map { source, .. } => source.offset(),
            Self::DataDigest { offset, .. }
            | Self::Frame { offset, .. }
            | Self::Stray { offset, .. } => Some(*offset),
            _ => None,
        }
    }

    pub(crate) fn file_at(operation: &'static str, file: &str) -> impl FnOnce(io::Error) -> Self {
        let file = file.to_owned();
        move |source| Self::File {
            operation,
            file,
            source,
        }
    }
}
