//! Tests that need something a host may lack.

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
    eprintln!("SKIP {name}: {reason}");
}
