//! Why a snapshot or a restore did not happen.

use std::error::Error;

use snapshot_format::DecodeError;
use snapshot_format::state::Reason;
use snapshot_memory::{DirtyError, PublishError, Published, SinkError};

use crate::step::Step;

/// The error of whoever does a step: an adapter, or the VMM.
pub type StepError = Box<dyn Error + Send + Sync>;

/// Taking a snapshot failed. The machine runs on, unless the error says otherwise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// A step of the machine failed.
    #[error("{step}")]
    Step {
        /// Which.
        step: Step,
        /// Why.
        #[source]
        source: StepError,
    },
    /// The end was asked for.
    #[error("cancelled at the step: {step}")]
    Cancelled {
        /// The step that did not happen any more, or not to its end.
        step: Step,
    },
    /// The dirty pages could not be had. All pages count as dirty from here on.
    #[error("{step}")]
    Dirty {
        /// Which.
        step: Step,
        /// Why.
        #[source]
        source: Box<DirtyError>,
    },
    /// A diff was asked for, and there is nothing that it could be relative to.
    #[error("there is no snapshot to diff against; take a full one first")]
    NoBase,
    /// A live snapshot was asked for of memory whose written pages are not tracked.
    #[error("a live snapshot needs a tracker of written pages; take a paused one, or track")]
    NotTracked,
    /// The guest writes memory faster than it can be written out, and the request was to give up
    /// then.
    #[error(
        "the guest writes memory faster than the snapshot: {pages} pages are left after {rounds} rounds; \
         slow the guest, allow a longer pause, or write to a faster disk"
    )]
    Behind {
        /// Rounds that were written.
        rounds: u32,
        /// Pages that were left.
        pages: u64,
    },
    /// The sink refused, and nothing is visible.
    #[error("{step}")]
    Sink {
        /// In which step.
        step: Step,
        /// Why.
        #[source]
        source: Box<SinkError>,
    },
    /// Publishing failed; the source says whether anything is visible.
    #[error("{}", Step::Publish)]
    Publish {
        /// Why.
        #[source]
        source: Box<PublishError>,
    },
    /// The snapshot is published and durable, but its pages stay dirty: the next diff takes them
    /// again, or must be a full one.
    #[error("snapshot {} is published, but its dirty pages were not committed", published.snapshot.id)]
    NotCommitted {
        /// The snapshot.
        published: Published,
        /// Why.
        #[source]
        source: Box<DirtyError>,
    },
    /// The machine could not be let go on: it stands still, or runs without its devices.
    #[error("the machine was not resumed ({step}){}", After(.after))]
    NotResumed {
        /// What failed.
        step: Step,
        /// What had failed before, if anything.
        after: Option<Box<SnapshotError>>,
        /// Why.
        #[source]
        source: StepError,
    },
}

struct After<'a>(&'a Option<Box<SnapshotError>>);

impl std::fmt::Display for After<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(first) => write!(f, ", after this had failed: {first}"),
            None => Ok(()),
        }
    }
}

/// A restore failed. The target is not to be run, and may be thrown away.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The host cannot run the snapshot, or the target is no machine for it. The target was not
    /// touched.
    #[error("this host cannot run the snapshot: {}", joined(.reasons))]
    Incompatible {
        /// Every reason.
        reasons: Vec<Reason>,
    },
    /// A section is damaged.
    #[error("{step}")]
    State {
        /// In which step.
        step: Step,
        /// Why.
        #[source]
        source: Box<DecodeError>,
    },
    /// A step of the machine failed.
    #[error("{step}")]
    Step {
        /// Which.
        step: Step,
        /// Why.
        #[source]
        source: StepError,
    },
}

fn joined(reasons: &[Reason]) -> String {
    let texts: Vec<String> = reasons.iter().map(ToString::to_string).collect();
    texts.join("; ")
}
