//! Deliberate defects, switched on by the environment: for the checks that must find them.

use snapshot_format::sabotage::Sabotage;

use crate::failure::Failure;

/// The environment variable that names a defect.
const VARIABLE: &str = "VMSNAP_SABOTAGE";

/// Switches on the defect that the environment names, if it names one.
pub(crate) fn enable() -> Result<(), Failure> {
    let Some(name) = std::env::var_os(VARIABLE) else {
        return Ok(());
    };
    let mut defects = Sabotage::ALL.into_iter();
    let defect = defects.find(|defect| name == defect.name());
    let defect = defect
        .ok_or_else(|| Failure::usage(format!("{VARIABLE} names no defect: {}", name.display())))?;
    defect.enable();
    Ok(())
}
