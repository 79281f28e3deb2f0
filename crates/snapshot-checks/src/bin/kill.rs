//! Ends processes that use a store at random instants. The last line is `kills: N, losses: L`.

use std::process::ExitCode;

use snapshot_checks::{kill, run_campaign};

fn main() -> ExitCode {
    run_campaign::<kill::Options>()
}
