//! Generations of guests: each is restored from the snapshot of the one before in a way chosen at
//! random, runs, is snapshotted in another, and all of its memory and of its snapshot are compared
//! with a plain array of bytes.
//!
//! - `options`: the command line
//! - `rehearsal`: the working set of a snapshot, recorded and refreshed
//! - `lineage`: one machine through its generations
//! - `campaign`: which lineages there are, and the verdict

mod campaign;
mod lineage;
mod options;
mod rehearsal;

pub use options::Options;
