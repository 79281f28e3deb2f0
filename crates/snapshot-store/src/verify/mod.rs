//! Checking every byte of snapshots, and that what they need is there.

mod data_file;
mod map_file;
mod report;
mod set;
mod snapshot;

pub use report::{Problem, Selection, VerifyProgress, VerifyReport};
