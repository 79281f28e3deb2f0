//! Checking every byte of snapshots, and that what they need is there.

mod bound;
mod record;
mod report;
mod set;
mod snapshot;

pub use record::LastCheck;
pub use report::{Problem, Selection, VerifyOptions, VerifyProgress, VerifyReport};
