//! Cuts and fails the real command on a file system that loses what was not synced. The last line
//! is `fuse cuts: N, violations: V`.

use std::process::ExitCode;

#[cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]
fn main() -> ExitCode {
    use snapshot_checks::{fuse, run_campaign};

    run_campaign::<fuse::Options>()
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu")))]
fn main() -> ExitCode {
    snapshot_memory::skip::skip("fuse", "commands are cut on Linux on x86_64 only");
    println!("fuse cuts: 0, violations: 0");
    ExitCode::SUCCESS
}
