//! A very small guest to prove snapshots with: a real KVM machine, and a stand-in for hosts
//! without KVM.

mod config;
mod error;
mod guest;

pub use config::{GuestConfig, MAX_MEMORY_BYTES, MIN_MEMORY_BYTES};
pub use error::GuestError;
pub use guest::{Backend, Guest, GuestSnapshot, Outcome, SnapshotPages};
