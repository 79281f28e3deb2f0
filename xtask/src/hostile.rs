//! `hostile`: flips, truncations and lies over golden files and a published store.

use crate::checks;
use crate::failure::Failure;
use crate::sabotage::{self, Check};

/// Runs the hostile inputs.
pub(crate) fn run(args: &[&str]) -> Result<(), Failure> {
    let (name, _) = checks::parse_args(args, None)?;
    if let Some(name) = name {
        sabotage::demand_known(name, Check::Hostile)?;
    }
    checks::demand("hostile", name)
}
