//! Looking at snapshots: what differs, where memory lies, what takes space, and what to do about it.

mod chain;
mod difference;
mod finding;
mod memory;
mod metrics;
mod picture;
mod space;

pub use chain::{ChainLayer, ChainReport};
pub use difference::{AttachedChange, SectionChange, SectionChanges, SnapshotDifference};
pub use finding::{Diagnosis, Finding, FindingKind};
pub use memory::{MemoryDifference, PageCountsBy, RegionDifference};
pub use metrics::open_metrics;
pub use picture::{Picture, PictureCell};
pub use space::{MachineSpace, SnapshotSpace, SpaceReport};
