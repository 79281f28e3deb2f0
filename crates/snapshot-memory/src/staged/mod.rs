//! A snapshot on its way to its final name: staged, sealed, published.

mod discard;
mod file;
mod live;
mod placement;
mod queue;
mod replacement;
mod returned;
mod sealed;
mod snapshot;

pub(crate) use discard::remove_stage;
pub use file::StagedFile;
pub use live::StagedLive;
pub use placement::{PLACE_PREFIX, SealedPlacement, StagedPlacement};
pub use queue::StagedQueue;
pub use replacement::SealedReplacement;
pub use returned::StagedReturn;
pub use sealed::SealedSnapshot;
pub use snapshot::{STAGE_PREFIX, SnapshotFacts, StagedSnapshot, snapshot_room};
