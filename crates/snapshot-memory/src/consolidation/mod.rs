//! How a snapshot comes to need fewer data files: which files of its chain stay, and which pages a
//! merged file takes over.
//!
//! All of it is decided by counts and by owner leaves; nothing here reads or writes a file.

mod options;
mod prefix;
mod takeover;

pub use options::ConsolidateOptions;
pub use prefix::{ChainLimits, FileShare, choose_prefix};
pub use takeover::{Fragmentation, Takeover};

#[cfg(test)]
mod tests;
