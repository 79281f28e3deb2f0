//! Archiving a snapshot: chunks to packs, then the recipe, then the commit.

mod commit;
mod input;
mod memory;
mod options;
mod store;
mod work;

pub use commit::Archived;
pub use input::{ArchiveFile, ArchiveInput, Relative};
pub use options::{ArchiveOptions, ArchiveProgress};
pub(crate) use store::ChunkStore;

#[cfg(test)]
mod tests;
