//! Checks that go on for longer than tests: crash points, hostile inputs, fuzz bodies.

#[cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]
pub mod block;
pub mod crash;
