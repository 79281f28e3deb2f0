//! Checking every byte of snapshots, and that what they need is there.

mod report;
mod set;
mod snapshot;

pub use report::{Problem, Selection, VerifyProgress, VerifyReport};
