//! Snapshots guests at random instants and restores each in a new process. The last line is
//! `instants: N, differences: D`.

use std::process::ExitCode;

use snapshot_checks::{instants, run_campaign};

fn main() -> ExitCode {
    run_campaign::<instants::Options>()
}
