//! Switching a deliberate defect on by its name.

use snapshot_format::sabotage::Sabotage;

/// Breaks the code of this process on purpose.
///
/// The error says that there is no such defect, or that this build has none.
pub fn switch_on(name: &str) -> Result<(), String> {
    let defect = Sabotage::ALL.into_iter().find(|known| known.name() == name);
    enable(defect.ok_or_else(|| format!("there is no defect {name:?}"))?)
}

#[cfg(feature = "sabotage")]
#[expect(clippy::unnecessary_wraps, reason = "as without the feature")]
fn enable(defect: Sabotage) -> Result<(), String> {
    defect.enable();
    Ok(())
}

#[cfg(not(feature = "sabotage"))]
fn enable(defect: Sabotage) -> Result<(), String> {
    Err(format!(
        "defect {:?} is not compiled in: build with --features sabotage",
        defect.name()
    ))
}
