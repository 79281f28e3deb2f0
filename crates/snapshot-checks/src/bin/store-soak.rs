//! Random operations on stores, compared with a model after each. The last line is
//! `steps: N, violations: V`.

use std::process::ExitCode;

use snapshot_checks::{operations, run_campaign};

fn main() -> ExitCode {
    run_campaign::<operations::Options>()
}
