//! Why a data file was not laid out anew.

use snapshot_format::DataLayout;

use crate::error::{FileError, SinkError};
use crate::frames::FrameCodecError;
use crate::image::ImageError;
use crate::restore::SourceError;

/// Laying a data file out anew, or publishing it, failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RelayoutError {
    /// The data file that is there could not be read, or is not what was written.
    #[error(transparent)]
    Read(#[from] ImageError),
    /// The new files could not be written, or not be given their names. The placement that counted
    /// before counts.
    #[error(transparent)]
    Write(#[from] SinkError),
    /// The memory that comes back could not be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// There is no such encoder.
    #[error(transparent)]
    Codec(#[from] FrameCodecError),
    /// This build has no writer of the layout.
    #[error("data cannot be laid out as {layout:?} by this build")]
    Unsupported {
        /// What was asked for.
        layout: DataLayout,
    },
    /// The new placement counts, but may be gone after a power failure: then the one before counts,
    /// whose files are all there.
    #[error("the new placement counts, and may not survive a power failure")]
    DurabilityUncertain(#[source] FileError),
}

impl From<FileError> for RelayoutError {
    fn from(error: FileError) -> Self {
        Self::Write(error.into())
    }
}
