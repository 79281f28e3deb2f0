//! Memory brought back: pages of a snapshot, each checked before it is handed out.

mod bound;
mod cache;
mod check;
mod compare;
mod data_file;
mod data_files;
mod error;
mod framed;
mod known;
mod mend;
mod raw;
mod read;
mod reader;
mod same;
mod spare;

pub use bound::BoundCheck;
pub use check::CheckedBytes;
pub use compare::CompareError;
pub use data_file::{DataFile, DataFileNames};
pub(crate) use data_file::{allow, within_leaf};
pub use data_files::OpenDataFile;
pub use error::ImageError;
pub(crate) use known::KnownPage;
pub use mend::{DamagedUnit, FindUnit, MendedData};
pub use raw::{RawBytes, RawStep, RawWriter};
pub use reader::{Extent, MemoryImage, PageCounts};
pub use same::{FoundMap, MapFile};

#[cfg(test)]
mod tests;
