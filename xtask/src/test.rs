//! `test`: everything that a clean clone needs to pass.

use std::collections::BTreeSet;

use crate::cargo::{self, Shown};
use crate::checks::Counts;
use crate::failure::Failure;
use crate::requirement::Required;

/// Runs all tests and doc tests, and says what was skipped.
pub(crate) fn run(required: &Required) -> Result<(), Failure> {
    let shown = cargo::run_shown(cargo::command(["test", "--workspace", "--no-fail-fast"]))?;
    let summary = Summary::of(&shown.stdout, &shown.stderr);
    for (name, reason) in &summary.skipped {
        println!("SKIP {name}: {reason}");
    }
    println!(
        "tests: {} passed, {} failed, {} ignored, {} skipped for want of something",
        summary.passed,
        summary.failed,
        summary.ignored,
        summary.skipped.len()
    );
    judge(&shown, &summary, required)
}

/// Runs one test of integration under a defect, which its environment names; the counts are of its
/// functions.
pub(crate) fn under(
    package: &str,
    test: &str,
    defect: &str,
) -> Result<(Shown, Option<Counts>), Failure> {
    let mut command = cargo::command(["test", "--package", package, "--test", test]);
    command.args(["--features", "sabotage"]);
    command.env("VMSNAP_SABOTAGE", defect);
    let shown = cargo::run_shown(command)?;
    let summary = Summary::of(&shown.stdout, &shown.stderr);
    let ran = summary.passed + summary.failed;
    // A test that was not built has no result.
    let counts = (ran > 0).then(|| Counts::of("functions", ran, summary.failed));
    Ok((shown, counts))
}

fn judge(shown: &Shown, summary: &Summary, required: &Required) -> Result<(), Failure> {
    if !shown.status.success() {
        return Err(Failure::failed(format!(
            "cargo test ended with {}",
            shown.status
        )));
    }
    let missed = required.missed(summary.skipped.iter().map(|(name, _)| name.as_str()));
    if missed.is_empty() {
        Ok(())
    } else {
        let missed = missed.join(", ");
        Err(Failure::failed(format!(
            "VMSNAP_REQUIRE names what was skipped: {missed}"
        )))
    }
}

/// What the lines of a test run add up to.
#[derive(PartialEq, Eq, Debug, Default)]
struct Summary {
    passed: u64,
    failed: u64,
    ignored: u64,
    skipped: BTreeSet<(String, String)>,
}

impl Summary {
    fn of(stdout: &[String], stderr: &[String]) -> Self {
        let mut summary = Self::default();
        for line in stdout.iter().chain(stderr) {
            if let Some(skip) = line.trim_start().strip_prefix("SKIP ") {
                let (name, reason) = skip.split_once(": ").unwrap_or((skip, ""));
                summary.skipped.insert((name.to_owned(), reason.to_owned()));
            } else if let Some(result) = line.strip_prefix("test result: ") {
                summary.passed += count(result, " passed");
                summary.failed += count(result, " failed");
                summary.ignored += count(result, " ignored");
            }
        }
        summary
    }
}

/// The number before `word`: `ok. 3 passed; 0 failed` holds 3 before ` passed`.
fn count(result: &str, word: &str) -> u64 {
    let before = result.split(word).next().unwrap_or_default();
    before
        .rsplit(' ')
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_and_skips_are_added_up() {
        let stdout = [
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out",
            "test result: FAILED. 2 passed; 5 failed; 0 ignored; 0 measured; 0 filtered out",
        ];
        let stderr = [
            "SKIP kvm: no /dev/kvm",
            "SKIP kvm: no /dev/kvm",
            "warning: SKIP",
        ];
        let text = |lines: &[&str]| lines.iter().map(ToString::to_string).collect::<Vec<_>>();
        let summary = Summary::of(&text(&stdout), &text(&stderr));
        assert_eq!((summary.passed, summary.failed, summary.ignored), (5, 5, 1));
        assert_eq!(summary.skipped.len(), 1);
    }
}
