//! Several writes of one file under way at once, past the page cache.
//!
//! One queue ([`DirectQueue`]) over what carries the writes out ([`Device`]): an io_uring, or plain
//! calls where the kernel gives none. The queue decides, the device only does; so every rule of the
//! queue is tested with a device that answers what the test wants.

#[cfg(target_os = "linux")]
mod alignment;
mod buffer;
#[cfg(target_os = "linux")]
mod description;
#[cfg(any(target_os = "linux", test, feature = "testing"))]
mod device;
#[cfg(not(target_os = "linux"))]
mod elsewhere;
mod failure;
#[cfg(any(target_os = "linux", test, feature = "testing"))]
mod flight;
#[cfg(target_os = "linux")]
mod open;
#[cfg(any(target_os = "linux", test, feature = "testing"))]
mod outcome;
#[cfg(target_os = "linux")]
mod plain;
#[cfg(test)]
mod plan;
mod queue;
mod read;
#[cfg(target_os = "linux")]
mod read_ring;
mod refused;
#[cfg(target_os = "linux")]
mod ring;
mod through;
#[cfg(any(target_os = "linux", test, feature = "testing"))]
mod write;

pub use buffer::{DirectBuffer, release_buffers};
#[cfg(any(target_os = "linux", test, feature = "testing"))]
pub(crate) use device::{Completion, Device};
#[cfg(not(target_os = "linux"))]
pub(crate) use elsewhere::{Probe, open};
#[cfg(any(test, feature = "testing"))]
pub(crate) use flight::DirectQueue;
#[cfg(target_os = "linux")]
pub(crate) use open::{Probe, open};
pub use queue::{Piece, QueueMode, WriteQueue};
pub(crate) use read::{FilledBuffer, READ_DEPTH, ReadQueue};
pub use refused::DirectRefused;
pub use through::WriteThrough;
#[cfg(any(target_os = "linux", test, feature = "testing"))]
pub(crate) use write::Write;
