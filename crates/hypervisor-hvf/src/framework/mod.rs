//! Hypervisor.framework itself: macOS on Apple silicon.
//!
//! It is type-checked for `aarch64-apple-darwin`, and has never run: see the documentation of the
//! crate.

mod calls;
mod host;
mod newer;

pub use calls::Framework;
