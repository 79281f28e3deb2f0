//! Guest memory in and out: dirty pages, memory files, atomic publish.

pub mod backend;
mod error;
mod source;

pub use error::MemoryError;
pub use source::{GuestMemorySource, HostRun};
