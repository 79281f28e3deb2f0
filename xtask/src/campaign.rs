//! `instants`, `soak`, `kill`: campaigns with guests, which wait for those and not for themselves.

use crate::cargo::{self, Shown};
use crate::checks::{self, Counts};
use crate::failure::Failure;
use crate::requirement::Required;
use crate::sabotage::{self, Check};

/// Runs a campaign; arguments are handed on.
pub(crate) fn run(check: Check, args: &[&str], required: &Required) -> Result<(), Failure> {
    let (name, rest) = checks::parse_args(args)?;
    if let Some(name) = name {
        sabotage::demand_known(name, check)?;
    }
    let (shown, counts) = start(check, name, &rest)?;
    let skips = shown.stderr.iter().filter_map(|line| {
        let skip = line.strip_prefix("SKIP ")?;
        skip.split_once(": ")
    });
    let mut has_skipped = false;
    for (name, reason) in skips {
        required.skip(name, reason)?;
        has_skipped = true;
    }
    checks::judge(check.name(), &shown, counts, has_skipped)
}

/// Runs a campaign under a defect, until something goes wrong.
pub(crate) fn under(check: Check, name: &str) -> Result<(Shown, Option<Counts>), Failure> {
    start(check, Some(name), arguments_under_a_defect(check))
}

/// The first difference is enough, and a guest that sleeps for ever is not to be waited for long.
fn arguments_under_a_defect(check: Check) -> &'static [&'static str] {
    match check {
        Check::Soak => &["--fail-fast", "--generations", "300", "--timeout", "20"],
        Check::StoreSoak => &["--fail-fast", "--steps", "10000"],
        Check::Kill => &["--fail-fast", "--count", "100", "--timeout", "20"],
        _ => &["--fail-fast", "--count", "200", "--timeout", "10"],
    }
}

/// The ordinary build is as good as one for speed, and is there already.
fn start(
    check: Check,
    name: Option<&str>,
    rest: &[&str],
) -> Result<(Shown, Option<Counts>), Failure> {
    let mut command = cargo::command(["run", "--quiet", "--package", "snapshot-checks"]);
    command.args(["--bin", check.name()]);
    if name.is_some() {
        command.args(["--features", "sabotage"]);
    }
    command.arg("--").args(rest);
    if let Some(name) = name {
        command.args(["--sabotage", name]);
    }
    let shown = cargo::run_shown(command)?;
    let counts = shown.stdout.last().and_then(|line| Counts::parse(line));
    Ok((shown, counts))
}
