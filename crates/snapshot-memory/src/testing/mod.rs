//! Conformance suites: what every implementation of a trait must do.

mod dirty;

pub use dirty::dirty_source_suite;
