//! `crash`: cuts at every file operation, in memory or with the real command on loop images.

use std::process::Command;

use crate::cargo;
use crate::checks;
use crate::failure::Failure;
use crate::sabotage::{self, Check};
use crate::source_tree;

/// Runs the enumeration; `--block` takes the real command on real file systems, and hands other
/// arguments on.
pub(crate) fn run(args: &[&str]) -> Result<(), Failure> {
    let (name, rest) = checks::parse_args(args)?;
    if let Some(name) = name {
        sabotage::demand_known(name, Check::Crash)?;
    }
    if let Some(at) = rest.iter().position(|arg| *arg == "--block") {
        return run_block(name, &[&rest[..at], &rest[at + 1..]].concat());
    }
    checks::demand_none(&rest)?;
    checks::demand("crash", name)
}

/// Builds the command, defects compiled in only where one is asked for, and cuts it.
fn run_block(name: Option<&str>, others: &[&str]) -> Result<(), Failure> {
    // Apart from the ordinary build, so that no one can take the broken command for the real one.
    let folder = if name.is_some() {
        "target/sabotage"
    } else {
        "target"
    };
    let target = source_tree::root().join(folder);
    let mut build = cargo::command(["build", "--quiet", "--release", "--package", "vmsnap"]);
    build.arg("--target-dir").arg(&target);
    if name.is_some() {
        build.args(["--features", "sabotage"]);
    }
    cargo::run(build)?;
    let mut check: Command = cargo::command([
        "run",
        "--quiet",
        "--release",
        "--package",
        "snapshot-checks",
    ]);
    check
        .args(["--bin", "crash-block", "--", "--vmsnap"])
        .arg(target.join("release/vmsnap"));
    if let Some(name) = name {
        check.args(["--sabotage", name]);
    }
    check.args(others);
    cargo::run(check)
}
