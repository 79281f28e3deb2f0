//! Cuts the power of the real `vmsnap` on ext4, XFS and btrfs.

use std::process::ExitCode;

#[cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]
fn main() -> ExitCode {
    use clap::Parser;
    use snapshot_checks::block::{Options, run};

    run(&Options::parse()).unwrap_or_else(|error| {
        eprint!("crash-block: {error}");
        let mut source = std::error::Error::source(&error);
        while let Some(error) = source {
            eprint!(": {error}");
            source = error.source();
        }
        eprintln!();
        ExitCode::from(2)
    })
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu")))]
fn main() -> ExitCode {
    for name in ["ext4", "xfs", "btrfs"] {
        snapshot_memory::skip::skip(name, "commands are traced on Linux on x86_64 only");
    }
    println!("crash points: 0, violations: 0");
    ExitCode::SUCCESS
}
