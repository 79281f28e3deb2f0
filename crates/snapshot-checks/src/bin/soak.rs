//! Guests restored, run and snapshotted through many generations, every byte compared. The last line
//! is `generations: N, differences: D`.

use std::process::ExitCode;

use snapshot_checks::{run_campaign, soak};

fn main() -> ExitCode {
    run_campaign::<soak::Options>()
}
