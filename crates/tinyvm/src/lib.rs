//! A very small guest to prove snapshots with: a real KVM machine, and a stand-in for hosts
//! without KVM.

mod config;
mod device;
mod digest;
mod error;
mod guest;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod kvm;
mod load;
mod model;
mod process;
mod program;
mod start;

pub use config::{GuestConfig, MAX_MEMORY_BYTES, MIN_MEMORY_BYTES};
pub use error::GuestError;
pub use guest::{Backend, Guest, GuestSnapshot, Outcome, SnapshotPages};
pub use load::PageReader;
pub use start::{Image, Restored, kvm_available, restore, start};

#[cfg(test)]
mod tests;
