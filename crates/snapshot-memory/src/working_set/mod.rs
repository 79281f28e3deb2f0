//! The pages that a guest touches first: recorded, written beside the snapshot, brought back in few
//! large reads.

mod chunk;
mod compare;
mod error;
mod hold_back;
mod keeper;
#[cfg(target_os = "linux")]
mod mincore;
mod open;
#[cfg(target_os = "linux")]
mod recorders;
mod refresh;
mod replay;
mod replay_options;
#[cfg(target_os = "linux")]
mod served;
mod target;
mod touched;
mod write;

pub use error::{WorkingSetError, WorkingSetFault};
pub use hold_back::HoldBack;
pub use keeper::{Observed, Refreshed, Seen, WorkingSetKeeper};
pub use open::WorkingSet;
pub use refresh::{Change, REFRESH_MIN_PAGES, REFRESH_MISSING_SHARE, REFRESH_STALE_SHARE, Verdict};
pub use replay_options::{ReplayOptions, Replayed};
pub use target::{FreshMemory, PageTarget};
pub use touched::TouchedPages;
pub use write::{WorkingSetOptions, WrittenWorkingSet, write_working_set};

#[cfg(test)]
mod rig;
