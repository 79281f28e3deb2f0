//! A very small guest to prove snapshots with: a real KVM machine, and a stand-in for hosts
//! without KVM.
//!
//! Both run one program, which writes a pseudo-random pattern over memory and talks to a port. Its
//! end depends on every step and on every answer, so that a guest that was restored proves by its
//! end that nothing was lost:
//!
//! ```
//! use tinyvm::{Backend, GuestConfig, start};
//!
//! let config = GuestConfig { memory_bytes: 2 << 20, steps: 100, ..GuestConfig::default() };
//! let once = start(Backend::Process, &config)?.finish()?;
//! let again = start(Backend::Process, &config)?.finish()?;
//! assert_eq!(once, again);
//! # Ok::<(), tinyvm::GuestError>(())
//! ```
//!
//! | Module | Holds |
//! |---|---|
//! | `guest`, `start` | what one does with a guest, and making or restoring one |
//! | `purpose` | whether a restored guest is the one that was stopped, or a clone |
//! | `program` | the machine code, commented, and the memory that it starts in |
//! | `model` | the same program as Rust |
//! | `kvm`, `process` | the two backends |
//! | `device` | the port |
//! | `config`, `load`, `digest` | configuration, memory, digest of memory |

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
mod proof;
mod purpose;
mod start;

pub use config::{GuestConfig, MAX_MEMORY_BYTES, MIN_MEMORY_BYTES};
pub use error::GuestError;
pub use guest::{Backend, Guest, GuestSnapshot, Outcome, SnapshotPages};
pub use hypervisor_bridge::PageReader;
pub use proof::Program;
pub use purpose::{GENERATION_ADDRESS, Purpose};
pub use start::{Image, Restored, host, kvm_available, restore, start};

#[cfg(test)]
mod tests;
