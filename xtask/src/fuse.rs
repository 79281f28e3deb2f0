//! `fuse`: the real command on a file system that loses what was not synced.

use crate::cargo::{self, Shown};
use crate::checks::{self, Counts};
use crate::failure::Failure;
use crate::requirement::Required;

/// A file system on which a sync makes nothing durable: the check must find that, in a few steps.
const SABOTAGED: [&str; 7] = [
    "--lose-synced",
    "--fail-fast",
    "--every",
    "3",
    "--commands",
    "2",
    "--seed=1",
];

/// Builds the command and the check, and runs it; arguments are handed on. With `--prove` it must
/// fail, because its file system is broken.
pub(crate) fn run(args: &[&str], required: &Required) -> Result<(), Failure> {
    let (name, rest) = checks::parse_args(args)?;
    if let Some(name) = name {
        return Err(Failure::usage(format!(
            "no defect is proved by fuse alone, {name:?} neither: see --prove, and sabotage --list"
        )));
    }
    if rest == ["--prove"] {
        return prove(required);
    }
    let (shown, has_skipped) = check(&rest, required)?;
    let counts = shown.stdout.last().and_then(|line| Counts::parse(line));
    checks::judge("fuse", &shown, counts, has_skipped)
}

fn check(args: &[&str], required: &Required) -> Result<(Shown, bool), Failure> {
    cargo::run(cargo::command(["build", "--quiet", "--package", "vmsnap"]))?;
    let mut command = cargo::command(["run", "--quiet", "--package", "snapshot-checks"]);
    command.args(["--bin", "fuse", "--", "--vmsnap"]);
    command.arg(cargo::built("vmsnap")?).args(args);
    let shown = cargo::run_shown(command)?;
    let skipped = shown.stderr.iter();
    let skipped = skipped.filter_map(|line| line.strip_prefix("SKIP ")?.split_once(": "));
    let mut has_skipped = false;
    for (name, reason) in skipped {
        required.skip(name, reason)?;
        has_skipped = true;
    }
    Ok((shown, has_skipped))
}

/// Demands that the check finds a file system that loses what was synced.
fn prove(required: &Required) -> Result<(), Failure> {
    let (shown, has_skipped) = check(&SABOTAGED, required)?;
    let counts = shown.stdout.last().and_then(|line| Counts::parse(line));
    let is_caught = !shown.status.success() && counts.is_some_and(|counts| counts.wrong() > 0);
    if is_caught || has_skipped {
        return Ok(());
    }
    Err(Failure::failed(
        "fuse passes on a file system that loses what was synced",
    ))
}
