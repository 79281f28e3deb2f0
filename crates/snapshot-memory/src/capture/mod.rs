//! Guest memory to a data file and its map.

mod control;
mod data;
mod gather;
mod job;
mod map;
mod options;
mod pace;
mod scan;
mod writer;

pub use control::{Cancel, CaptureControl, CaptureProgress};
pub use options::{CaptureOptions, Dedup, Engine, EngineChoice, LayoutChoice};
pub use pace::Pace;
pub use writer::{MemoryWriter, WrittenMemory};
