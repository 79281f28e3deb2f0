//! Conformance suites: what every implementation of a trait must do.

mod dirty;

pub use dirty::{DirtyRig, dirty_source_suite};
