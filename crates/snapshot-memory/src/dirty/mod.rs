//! Dirty pages: bitmaps, where they come from, and the epochs that never lose them.

mod bitmap;
mod blind_spots;
mod epoch;
mod source;
mod tracker;
mod vmm_writes;

pub use bitmap::{BitmapError, DirtyBitmap};
pub use blind_spots::{BlindSpot, BlindSpots};
pub use epoch::DirtyEpoch;
pub use source::{DirtyGuarantee, DirtySource};
pub use tracker::{ConsumerId, DirtyTracker, LiveEpoch, LiveRounds, SourceFacts};
pub use vmm_writes::{VmmWrites, WriteMarker};
