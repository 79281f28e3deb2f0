//! `fuse`: the real command on a file system that loses what was not synced.

use crate::cargo;
use crate::checks::{self, Counts};
use crate::failure::Failure;
use crate::requirement::Required;
use crate::source_tree;

/// Builds the command and the check, and runs it; arguments are handed on.
pub(crate) fn run(args: &[&str], required: &Required) -> Result<(), Failure> {
    let (name, rest) = checks::parse_args(args)?;
    if let Some(name) = name {
        return Err(Failure::usage(format!(
            "no defect is proved by fuse alone, {name:?} neither: see sabotage --list"
        )));
    }
    cargo::run(cargo::command(["build", "--quiet", "--package", "vmsnap"]))?;
    let mut command = cargo::command(["run", "--quiet", "--package", "snapshot-checks"]);
    command.args(["--bin", "fuse", "--", "--vmsnap"]);
    command.arg(source_tree::root().join("target/debug/vmsnap"));
    command.args(rest);
    let shown = cargo::run_shown(command)?;
    let skipped = shown.stderr.iter();
    let skipped = skipped.filter_map(|line| line.strip_prefix("SKIP ")?.split_once(": "));
    let mut has_skipped = false;
    for (name, reason) in skipped {
        required.skip(name, reason)?;
        has_skipped = true;
    }
    let counts = shown.stdout.last().and_then(|line| Counts::parse(line));
    checks::judge("fuse", &shown, counts, has_skipped)
}
