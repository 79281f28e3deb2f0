//! The pages that a guest touches first: recorded, written beside the snapshot, brought back in few
//! large reads.

mod chunk;
mod compare;
mod error;
#[cfg(target_os = "linux")]
mod mincore;
mod open;
#[cfg(target_os = "linux")]
mod recorders;
mod replay;
mod replay_options;
#[cfg(target_os = "linux")]
mod served;
mod target;
mod touched;
mod write;

pub use error::WorkingSetError;
pub use open::WorkingSet;
pub use replay_options::{ReplayOptions, Replayed};
pub use target::{FreshMemory, PageTarget};
pub use touched::TouchedPages;
pub use write::{WorkingSetOptions, WrittenWorkingSet, write_working_set};

#[cfg(test)]
mod rig;
