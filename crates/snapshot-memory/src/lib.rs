//! Guest memory in and out: dirty pages, memory files, atomic publish.

#![cfg_attr(
    test,
    expect(
        clippy::assertions_on_result_states,
        clippy::cast_possible_truncation,
        clippy::needless_for_each,
        reason = "tests count in small numbers and look at outcomes"
    )
)]

pub mod backend;
mod capture;
mod directory;
mod dirty;
mod error;
mod guest_io;
mod image;
mod mapping;
mod raw_file;
mod sink;
#[cfg(any(test, feature = "testing"))]
pub mod skip;
mod source;
mod staged;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod uffd;
mod zero;

pub use capture::{MemoryWriter, WrittenMemory};
pub use directory::{DirectoryError, DirectorySink, PublishedSnapshot};
pub use dirty::{
    BitmapError, ConsumerId, DirtyBitmap, DirtyEpoch, DirtyGuarantee, DirtySource, DirtyTracker,
    VmmWrites, WriteMarker,
};
pub use error::{DirtyError, FileError, MemoryError, PublishError, SinkError};
pub use image::{
    CheckedBytes, CompareError, DataFile, DataFileNames, Extent, ImageError, MemoryImage,
    PageCounts,
};
pub use mapping::{MappedMemory, MappingKind, MappingOptions};
pub use raw_file::{RawFile, RawFileError};
pub use sink::{MemoryStats, Pages, Published, SealedSink, SnapshotSink, StagedSink};
pub use source::{GuestMemorySource, HostRun, Stability};
pub use staged::{STAGE_PREFIX, SealedSnapshot, SnapshotFacts, StagedFile, StagedSnapshot};
pub use uffd::WpAsyncSource;
