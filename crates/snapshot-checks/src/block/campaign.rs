//! All cuts of one file system: run a step, cut it everywhere, start again from each cut.

use std::collections::BTreeSet;
use std::process::ExitStatus;

use super::error::BlockError;
use super::options::Options;
use super::oracle::Oracle;
use super::point::{Call, Point, Side, WriteBack};
use super::rig::{Copy, Rig};
use super::script::{Inputs, Set, Step};
use super::tracee::{Stop, Tracee};
use crate::mount::{FileSystem, MountError, Volume};

/// The exit code of "durability uncertain".
const UNCERTAIN: i32 = 8;

/// What the cuts of one file system found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// Cuts and failed syncs that were checked.
    pub(crate) points: usize,
    /// Among them, pairs of operation and place that differ.
    pub(crate) distinct: BTreeSet<(&'static str, Point)>,
    /// What was wrong, one line each.
    pub(crate) violations: Vec<String>,
}

/// The cuts of one file system.
#[derive(Debug)]
pub(crate) struct Campaign<'a> {
    rig: Rig,
    oracle: Oracle,
    inputs: Inputs,
    options: &'a Options,
    findings: Findings,
}

/// A cut, and which sets may be there when the power is back.
struct Cut {
    point: Point,
    copy: Copy,
    expected: Expected,
}

/// Which sets of snapshots are right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Expected {
    /// What was there before the step.
    Old,
    /// What is there after it.
    New,
    /// One of the two.
    Either,
}

/// One run of a step under watch.
struct Watch {
    /// Syncs that it called.
    syncs: usize,
    /// The cuts on the way and after it.
    cuts: Vec<Cut>,
    status: ExitStatus,
}

/// Runs the campaign on `fs`.
pub(crate) fn run(fs: FileSystem, options: &Options) -> Result<Findings, BlockError> {
    let rig = Rig::new(fs, &options.dir())?;
    let mut campaign = Campaign {
        oracle: Oracle::new(&options.vmsnap(), &rig.path("out")),
        inputs: Inputs::write(&rig.path("inputs"), options.ways())?,
        rig,
        options,
        findings: Findings::default(),
    };
    let steps = campaign.inputs.steps();
    let count = if options.quick { 2 } else { steps.len() };
    for step in steps.iter().take(count) {
        campaign.cut_everywhere(step)?;
        campaign.take(step)?;
    }
    Ok(campaign.findings)
}

impl Campaign<'_> {
    fn cut_everywhere(&mut self, step: &Step) -> Result<(), BlockError> {
        let mut syncs = 0;
        for write_back in WriteBack::ALL {
            let (watch, disk) = self.watch(step, write_back, None)?;
            disk.unmount()?;
            syncs = watch.syncs;
            if !watch.status.success() && watch.status.code() != Some(UNCERTAIN) {
                return Err(BlockError::Undisturbed {
                    step: step.name,
                    problem: format!("it ended with {}", watch.status),
                });
            }
            for cut in watch.cuts {
                self.check(step, &cut, &write_back.to_string())?;
            }
        }
        for number in 0..syncs {
            let (watch, disk) = self.watch(step, WriteBack::Asked, Some(number))?;
            let how = format!("sync {} of it failed", number + 1);
            for cut in watch.cuts {
                // What the command says of itself must also hold without any cut.
                let live = self.oracle.look(&disk.root().join("store"), &self.inputs);
                let problem = judge(live, cut.expected, step).err();
                self.record(
                    step,
                    &cut.point,
                    &how,
                    problem.map(|text| format!("live, {text}")),
                );
                self.check(step, &cut, &how)?;
            }
            disk.unmount()?;
        }
        Ok(())
    }

    /// Runs `step` on a copy of the disk and cuts it at every point; or, with `failing`, lets only
    /// that sync fail and cuts once, at the end.
    fn watch(
        &self,
        step: &Step,
        write_back: WriteBack,
        failing: Option<usize>,
    ) -> Result<(Watch, Volume), BlockError> {
        let disk = self.rig.work()?;
        let store = disk.root().join("store");
        let mut command = self.oracle.command(&store, &step.arguments);
        command
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null());
        if let Some(name) = &self.options.sabotage {
            command.env("VMSNAP_SABOTAGE", name);
        }
        let mut tracee = Tracee::start(&mut command, &store.to_string_lossy())?;
        let mut cuts = Vec::new();
        let mut syncs = 0;
        let status = loop {
            let (side, call) = match tracee.next_stop()? {
                Stop::Ended(status) => break status,
                Stop::Call(side, call) => (side, call),
            };
            if side == Side::Before && call.is_sync() {
                if failing == Some(syncs) {
                    tracee.fail_call()?;
                }
                syncs += 1;
            }
            if failing.is_none() && self.is_cut(side) {
                write_back.apply(self.rig.fs(), &disk)?;
                cuts.push(Cut {
                    copy: self.rig.cut(cuts.len())?,
                    point: Point::Call(side, call),
                    expected: Expected::Either,
                });
            }
        };
        cuts.push(Cut {
            copy: self.rig.cut(cuts.len())?,
            point: Point::End,
            expected: Expected::after(status),
        });
        Ok((
            Watch {
                syncs,
                cuts,
                status,
            },
            disk,
        ))
    }

    fn is_cut(&self, side: Side) -> bool {
        side == Side::After || !self.options.quick
    }

    /// Starts again from a cut, looks, and runs an interrupted step again.
    fn check(&mut self, step: &Step, cut: &Cut, how: &str) -> Result<(), BlockError> {
        let disk = self.rig.start_again(&cut.copy)?;
        let store = disk.root().join("store");
        let found = self.oracle.look(&store, &self.inputs);
        let problem = match judge(found, cut.expected, step) {
            Err(problem) => Some(problem),
            Ok(set) if set == step.new => None,
            Ok(_) => self.repeat(step, &disk).err(),
        };
        disk.unmount()?;
        self.record(step, &cut.point, how, problem);
        Ok(())
    }

    /// An interrupted step must work when it is done again.
    fn repeat(&self, step: &Step, disk: &Volume) -> Result<(), String> {
        let store = disk.root().join("store");
        let output = self
            .oracle
            .command(&store, &step.arguments)
            .output()
            .map_err(|error| error.to_string())?;
        if !output.status.success() {
            let said = crate::mount::one_line(&output.stdout);
            return Err(format!(
                "done again, it ends with {}: {said}",
                output.status
            ));
        }
        let found = self.oracle.look(&store, &self.inputs);
        judge(found, Expected::New, step)
            .map(drop)
            .map_err(|problem| format!("done again, {problem}"))
    }

    /// Runs `step` with nobody in its way: where the next one begins.
    fn take(&self, step: &Step) -> Result<(), BlockError> {
        let disk = self.rig.work()?;
        let undisturbed = self.repeat(step, &disk);
        disk.unmount()?;
        undisturbed.map_err(|problem| BlockError::Undisturbed {
            step: step.name,
            problem,
        })?;
        Ok(self.rig.keep_work()?)
    }

    fn record(&mut self, step: &Step, point: &Point, how: &str, problem: Option<String>) {
        let findings = &mut self.findings;
        findings.points += 1;
        findings.distinct.insert((step.name, point.clone()));
        if let Some(problem) = problem {
            let fs = self.rig.fs().name();
            let line = format!("{fs}, {}, {point}, {how}: {problem}", step.name);
            findings.violations.push(line);
        }
    }
}

impl Expected {
    /// What a command that ended so has promised.
    fn after(status: ExitStatus) -> Self {
        match status.code() {
            Some(0) => Self::New,
            Some(UNCERTAIN) | None => Self::Either,
            Some(_) => Self::Old,
        }
    }
}

/// The set that was found, if it is one that may be there.
fn judge(found: Result<Set, String>, expected: Expected, step: &Step) -> Result<Set, String> {
    let set = found?;
    let is_right = match expected {
        Expected::Old => set == step.old,
        Expected::New => set == step.new,
        Expected::Either => set == step.old || set == step.new,
    };
    if is_right {
        return Ok(set);
    }
    let wanted = match expected {
        Expected::Old => "the snapshots of before it",
        Expected::New => "the snapshots of after it",
        Expected::Either => "the snapshots of before or of after it",
    };
    Err(format!("there are {set:?}, not {wanted}"))
}

impl WriteBack {
    /// Writes back what the command did not ask for.
    fn apply(self, fs: FileSystem, disk: &Volume) -> Result<(), MountError> {
        match self {
            Self::Asked => Ok(()),
            Self::Log => fs.commit_log(disk.root()),
            Self::All => FileSystem::flush(disk.root()),
        }
    }
}

impl Call {
    /// Whether it makes something durable.
    fn is_sync(&self) -> bool {
        self.name.contains("sync")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn step() -> Step {
        Step {
            name: "step",
            arguments: vec![],
            old: Set::from(["s0"]),
            new: Set::from(["s0", "s1"]),
        }
    }

    #[test]
    fn a_mixture_is_never_right_and_success_admits_the_new_set_only() {
        let step = step();
        let found = |names: &[&'static str]| Ok(names.iter().copied().collect());
        judge(found(&["s1"]), Expected::Either, &step).unwrap_err();
        judge(found(&["s0"]), Expected::Either, &step).unwrap();
        judge(found(&["s0"]), Expected::New, &step).unwrap_err();
        judge(found(&["s0", "s1"]), Expected::Old, &step).unwrap_err();
        judge(Err("damage".to_owned()), Expected::Either, &step).unwrap_err();
    }

    #[test]
    fn exit_codes_are_promises() {
        let after = |code: i32| Expected::after(ExitStatus::from_raw(code << 8));
        assert_eq!(after(0), Expected::New);
        assert_eq!(after(UNCERTAIN), Expected::Either);
        assert_eq!(after(1), Expected::Old);
        assert_eq!(Expected::after(ExitStatus::from_raw(9)), Expected::Either);
    }
}
