//! File systems of their own in files and in memory, for checks and tests that need one.
//!
//! Making one takes root, loop devices and the programs of the file system. Everything goes away
//! with the value that stands for it, also when a test panics; a thread that has called
//! [`leave_shared_mounts`] takes its mounts along even when it is killed.

mod disk;
mod error;
mod file_system;
mod tool;
mod volume;

pub use disk::Disk;
pub use error::MountError;
pub use file_system::FileSystem;
pub use volume::{LoopIo, Volume, leave_shared_mounts};

pub(crate) use tool::{find, one_line, run};
