//! The index: what lists say of snapshots, kept so that their files need not be read each time.
//!
//! It is derived and never the truth: whatever is wrong with it, a list is the same without it.

mod database;
mod listing;
mod place;
mod row;
mod stamps;

pub use listing::{Index, Reindexed};
pub use place::IndexUse;
