//! Several writes of one file under way at once, past the page cache.
//!
//! One queue ([`DirectQueue`]) over what carries the writes out ([`Device`]): an io_uring, or plain
//! calls where the kernel gives none. The queue decides, the device only does; so every rule of the
//! queue is tested with a device that answers what the test wants.

mod alignment;
mod buffer;
mod description;
mod device;
mod failure;
mod flight;
mod open;
mod outcome;
mod plain;
#[cfg(test)]
mod plan;
mod queue;
mod ring;
mod through;
mod write;

pub use buffer::{DirectBuffer, release_buffers};
pub(crate) use device::{Completion, Device};
#[cfg(any(test, feature = "testing"))]
pub(crate) use flight::DirectQueue;
pub use open::DirectRefused;
pub(crate) use open::{Probe, open};
pub use queue::{Piece, QueueMode, WriteQueue};
pub use through::WriteThrough;
pub(crate) use write::Write;
