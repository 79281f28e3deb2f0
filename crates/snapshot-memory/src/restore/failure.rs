//! Pages that could not be brought back.

use std::error::Error;
use std::io;

use snapshot_format::PageRange;

use crate::image::ImageError;

/// Reading pages of a snapshot failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// A file of the snapshot is damaged, cut, or cannot be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A source that is not an image failed, for its own reason.
    #[error(transparent)]
    Other(Box<dyn Error + Send + Sync>),
}

/// Guest memory that is lost to a running guest: what a VMM is told in place of a signal or of
/// silence.
///
/// The guest has not seen other bytes than those of its snapshot, but under
/// [`Verification::Background`](super::Verification::Background), where it may have. It cannot go
/// on: stop it, then restore it from another copy.
#[derive(Debug, thiserror::Error)]
#[error("guest pages {}..{} of the image are lost", pages.start.0, pages.end().0)]
pub struct MemoryFailure {
    /// Which pages of the image.
    pub pages: PageRange,
    /// Why.
    #[source]
    pub cause: FailureCause,
}

/// Why pages of a running guest are lost.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FailureCause {
    /// They could not be read, or are not what was written.
    #[error("they cannot be read from the snapshot")]
    Source(#[from] SourceError),
    /// A mapped file no longer has them: it was cut, or its medium failed.
    #[error("{file} was cut below offset {offset:#x}, or cannot be read there")]
    Mapping {
        /// The file that is mapped.
        file: String,
        /// The offset in it, in bytes.
        offset: u64,
    },
    /// They could be read and not be put in place.
    #[error("they cannot be put in place: {call}")]
    Place {
        /// The call that failed.
        call: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Whoever serves them is gone.
    #[error("the process that serves them has ended")]
    ServerGone,
}
