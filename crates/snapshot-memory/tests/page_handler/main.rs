//! A page handler and its VMs, in processes of their own.
#![cfg(target_os = "linux")]
#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "the tests fail by panicking"
)]

#[cfg(target_arch = "x86_64")]
mod filters;
mod firecracker;
mod machines;
mod rig;
mod watch;
