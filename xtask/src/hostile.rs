//! `hostile`: flips, truncations and lies over golden files and a published store.

use crate::checks;
use crate::failure::Failure;
use crate::sabotage::{self, Check};

/// Runs the hostile inputs.
pub(crate) fn run(args: &[&str]) -> Result<(), Failure> {
    let (name, rest) = checks::parse_args(args)?;
    checks::demand_none(&rest)?;
    if let Some(name) = name {
        sabotage::demand_known(name, Check::Hostile)?;
    }
    checks::demand("hostile", name)
}
