//! `instants`: guests snapshotted at random instants, each restored in a new process.

use crate::cargo::{self, Shown};
use crate::checks::{self, Counts};
use crate::failure::Failure;
use crate::requirement::Required;
use crate::sabotage::{self, Check};

/// Arguments under a defect: the first difference is enough, and a guest that sleeps for ever is
/// not to be waited for long.
const UNDER_A_DEFECT: [&str; 5] = ["--fail-fast", "--count", "200", "--timeout", "10"];

/// Runs the suite; arguments are handed on.
pub(crate) fn run(args: &[&str], required: &Required) -> Result<(), Failure> {
    let (name, rest) = checks::parse_args(args)?;
    if let Some(name) = name {
        sabotage::demand_known(name, Check::Instants)?;
    }
    let (shown, counts) = start(name, &rest)?;
    let skipped = shown
        .stderr
        .iter()
        .find_map(|line| line.strip_prefix("SKIP kvm: "));
    if let Some(reason) = skipped {
        return required.skip("kvm", reason);
    }
    let counts = counts.ok_or_else(|| {
        Failure::failed(format!(
            "instants ended with {} and no line of counts",
            shown.status
        ))
    })?;
    if !shown.status.success() || counts.wrong() > 0 {
        let wrong = counts.wrong();
        return Err(Failure::failed(format!("{wrong} guests ended otherwise")));
    }
    if counts.tried() == 0 {
        return Err(Failure::failed("instants tried nothing"));
    }
    Ok(())
}

/// Runs the suite under a defect, until a guest ends otherwise.
pub(crate) fn under(name: &str) -> Result<(Shown, Option<Counts>), Failure> {
    start(Some(name), &UNDER_A_DEFECT)
}

/// Unlike the other checks this one waits for guests, not for itself: the ordinary build is as
/// good, and is there already.
fn start(name: Option<&str>, rest: &[&str]) -> Result<(Shown, Option<Counts>), Failure> {
    let mut command = cargo::command(["run", "--quiet", "--package", "snapshot-checks"]);
    command.args(["--bin", "instants"]);
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
