//! Errors of the steps, named by the step.

use snapshot_memory::{Cancel, DirtyError, SinkError};

use crate::error::{SnapshotError, StepError};
use crate::step::Step;

pub(crate) fn go_on(cancel: &Cancel, step: Step) -> Result<(), SnapshotError> {
    if cancel.is_asked() {
        return Err(SnapshotError::Cancelled { step });
    }
    Ok(())
}

pub(crate) fn at(step: Step) -> impl Fn(StepError) -> SnapshotError {
    move |source| SnapshotError::Step { step, source }
}

pub(crate) fn refused(step: Step) -> impl Fn(SinkError) -> SnapshotError {
    move |source| match source {
        SinkError::Cancelled => SnapshotError::Cancelled { step },
        source => SnapshotError::Sink {
            step,
            source: Box::new(source),
        },
    }
}

pub(crate) fn dirty(step: Step) -> impl Fn(DirtyError) -> SnapshotError {
    move |source| SnapshotError::Dirty {
        step,
        source: Box::new(source),
    }
}
