//! Short runs of the long campaigns, with seeds that stay.

use std::process::{Command, Stdio};

/// What a campaign says at last: `name: TRIED, name: WRONG`.
fn counts(said: &str) -> Option<(u64, u64)> {
    let (tried, wrong) = said.lines().last()?.split_once(", ")?;
    let number = |pair: &str| pair.split_once(": ")?.1.parse().ok();
    Some((number(tried)?, number(wrong)?))
}

#[test]
fn twenty_generations_hold_every_byte() {
    // Its standard error is this one's: a skip is seen.
    let output = Command::new(env!("CARGO_BIN_EXE_soak"))
        .args(["--generations", "20", "--seed", "1"])
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert_eq!(counts(&said), Some((20, 0)), "{said}");
}

#[test]
fn operations_at_random_leave_what_a_model_holds() {
    let output = Command::new(env!("CARGO_BIN_EXE_store-soak"))
        .args(["--steps", "400", "--life", "100", "--seed", "1"])
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert_eq!(counts(&said), Some((400, 0)), "{said}");
}

#[test]
fn twenty_processes_that_are_ended_lose_nothing_that_was_published() {
    let output = Command::new(env!("CARGO_BIN_EXE_kill"))
        .args(["--count", "20", "--seed", "1"])
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert_eq!(counts(&said), Some((20, 0)), "{said}");
}
