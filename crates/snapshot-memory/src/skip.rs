//! Tests that need something a host may lack.

use std::io::{self, Write};

/// Says that a test did not run, and why: `SKIP name: reason` on standard error.
///
/// # Panics
///
/// If the environment variable `VMSNAP_REQUIRE`, a list with commas, holds `name`: there a skip is
/// a failure.
pub fn skip(name: &str, reason: &str) {
    let required = std::env::var("VMSNAP_REQUIRE").unwrap_or_default();
    let is_required = required.split(',').any(|required| required.trim() == name);
    assert!(!is_required, "VMSNAP_REQUIRE names {name}, but: {reason}");
    // Not by `eprintln!`, which the test harness hides when the test passes. A standard error that
    // is closed takes nothing from the test.
    let _ = io::stderr().write_all(format!("SKIP {name}: {reason}\n").as_bytes());
}
