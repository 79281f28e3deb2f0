//! For tests of adapters and of VMMs: a script that records and breaks steps, a machine and a sink
//! that follow it, the conformance suite, and live snapshots under load.
//!
//! Assertions in here fail the test that calls.
#![expect(
    clippy::missing_panics_doc,
    reason = "a suite fails by panicking, as any test does"
)]

#[cfg(test)]
pub(crate) mod bench;
mod live;
mod machine;
mod script;
mod sink;
mod suite;

pub use snapshot_memory::testing::{DirtyRig, dirty_source_suite};

pub use live::live_image_suite;
pub use machine::{FakeDevices, FakeState, FakeVcpus, fake_paused};
pub use script::{Break, Script};
pub use sink::{KeptSnapshot, MemorySink};
pub use suite::{capture_state_suite, state_round_trip_suite};
