//! A snapshot on its way to its final name.

mod file;

pub use file::StagedFile;
