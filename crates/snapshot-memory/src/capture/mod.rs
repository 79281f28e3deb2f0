//! Guest memory to a data file and its map.

mod data;
mod map;
mod scan;
mod writer;

pub use writer::{MemoryWriter, WrittenMemory};
