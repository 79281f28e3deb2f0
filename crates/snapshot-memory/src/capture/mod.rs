//! Guest memory to a data file and its map.

mod choice;
mod chunk;
mod control;
mod cost;
mod gaps;
mod inherit;
mod leaves;
mod live;
mod map;
mod options;
mod pace;
mod pipeline;
mod placer;
mod plan;
mod plugged;
mod pool;
#[cfg(test)]
mod rig;
mod writer;

pub use control::{Cancel, CaptureControl, CaptureProgress};
pub use cost::CostModel;
pub(crate) use live::{LiveStart, LiveWriter};
pub(crate) use map::{MapWriter, table};
pub use options::{CaptureOptions, Dedup, Engine, EngineChoice, LayoutChoice};
pub use pace::Pace;
pub use writer::{MemoryWriter, WrittenMemory};
