//! Conformance suites: what every implementation of a trait must do.

mod dirty;
#[cfg(target_os = "linux")]
mod filter;

pub use dirty::{DirtyRig, dirty_source_suite};
#[cfg(target_os = "linux")]
pub use filter::under_filter;

#[cfg(target_os = "linux")]
pub use crate::handler::read_handshake;
