//! What an error of a working set means to a caller.

use snapshot_format::ErrorKind as DecodeErrorKind;
use snapshot_memory::{SourceError, WorkingSetError};

use super::{ErrorKind, StoreError, kind_of_io};

pub(super) fn kind_of(error: &WorkingSetError) -> ErrorKind {
    match error {
        WorkingSetError::Damaged { source, .. } => match source.kind() {
            DecodeErrorKind::TooNew | DecodeErrorKind::Unsupported => ErrorKind::TooNew,
            _ => ErrorKind::Corrupt,
        },
        WorkingSetError::OtherSnapshot { .. }
        | WorkingSetError::PageCount { .. }
        | WorkingSetError::Differs { .. } => ErrorKind::Corrupt,
        WorkingSetError::Empty => ErrorKind::Usage,
        WorkingSetError::File { source, .. } => kind_of_io(source),
        WorkingSetError::Write(error) => kind_of_io(&error.source),
        _ => ErrorKind::Failed,
    }
}

/// What is wrong with the snapshot, and a request to stop, are not about the working set.
impl From<WorkingSetError> for StoreError {
    fn from(error: WorkingSetError) -> Self {
        match error {
            WorkingSetError::Source(SourceError::Image(source)) => Self::image(source),
            WorkingSetError::Cancelled => Self::Interrupted,
            other => Self::WorkingSet {
                source: Box::new(other),
            },
        }
    }
}
