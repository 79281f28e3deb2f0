//! Snapshots in a plain directory, for a VMM that wants files and no catalog.

mod published;
mod sink;

pub use published::{DirectoryError, PublishedSnapshot};
pub use sink::DirectorySink;
