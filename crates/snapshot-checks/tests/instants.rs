//! Guests that are restored from random instants end as if nobody had ever stopped them.

use std::process::{Command, Stdio};

#[test]
fn guests_restored_from_random_instants_end_as_if_they_had_never_stopped() {
    // Its standard error is this one's: a skip is seen.
    let output = Command::new(env!("CARGO_BIN_EXE_instants"))
        .args(["--count", "20"])
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    let last = said.lines().last().unwrap_or_default();
    let counts = last.strip_prefix("instants: ").and_then(|counts| {
        let (instants, differences) = counts.split_once(", differences: ")?;
        Some((instants.parse().ok()?, differences.parse().ok()?))
    });
    let (instants, differences): (u64, u64) = counts.unwrap();
    assert_eq!(differences, 0, "{said}");
    // None where there is no KVM, which was said on standard error.
    assert!(instants >= 20 || tinyvm::kvm_available().is_err(), "{said}");
}
