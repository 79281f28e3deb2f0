//! The steps, their cuts, and the verdict.

use std::io::ErrorKind as IoErrorKind;
use std::process::Stdio;

use snapshot_memory::backend::{CrashState, Fault, FaultBackend, MemBackend, RelPath};
use snapshot_memory::skip::skip;

use super::mounted::Mounted;
use super::options::Options;
use super::script::{Move, Sort, moves};
use crate::block::oracle::Oracle;
use crate::block::script::{Inputs, Set};
use crate::campaign::Tally;
use crate::mount::leave_shared_mounts;
use crate::random::Random;
use crate::stored_guest::Failure;
use crate::watchdog::Watchdog;

/// The exit code of "durability uncertain".
const UNCERTAIN: i32 = 8;

const EIO: i32 = 5;

/// Bytes of a tree that is full: none of what a command writes fits, some, most.
const ROOM: [u64; 3] = [0, 100_000, 1_000_000];

/// Runs every step, cut and failed.
pub(super) fn run(options: &Options) -> Result<Tally, Failure> {
    let mut tally = Tally::new("fuse cuts", "violations");
    if let Some(reason) = super::lacking() {
        skip("fuse", &reason);
        return Ok(tally);
    }
    leave_shared_mounts()?;
    let watchdog = tally.watch(options.common.timeout())?;
    let place = options.common.place()?;
    let out = place.path().join("out");
    std::fs::create_dir(&out)?;
    let inputs = Inputs::write(place.path(), Vec::new())?;
    let mut campaign = Campaign {
        options,
        oracle: Oracle::new(&options.vmsnap(), &out).of_single_host(),
        inputs,
        tree: MemBackend::new(),
        random: options.common.random(),
        tally: &mut tally,
        watchdog,
    };
    let steps = moves(&campaign.inputs);
    let count = options.commands.unwrap_or(steps.len());
    for step in steps.iter().take(count) {
        campaign.step(step)?;
        if options.common.is_enough(campaign.tally) {
            break;
        }
    }
    drop(campaign);
    Ok(tally)
}

struct Campaign<'a> {
    options: &'a Options,
    oracle: Oracle,
    inputs: Inputs,
    /// What the steps before left.
    tree: MemBackend,
    random: Random,
    tally: &'a mut Tally,
    watchdog: Watchdog,
}

/// How a command is disturbed.
#[derive(Clone, Copy, Debug)]
enum Disturbed {
    Cut(usize),
    Fails(usize, Fault),
    Full(u64),
}

/// Which sets of snapshots are right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Expected {
    Old,
    New,
    Either,
}

impl Campaign<'_> {
    /// Runs a step in every way, and then undisturbed.
    fn step(&mut self, step: &Move) -> Result<(), Failure> {
        let name = step.step.name;
        if let Sort::Mends(damaged) = step.sort {
            self.damage(damaged)?;
        }
        let whole = FaultBackend::new(&self.tree);
        let code = self.command(&whole, step)?;
        if code != Some(0) {
            return Err(format!("{name}: it ends with {code:?}, undisturbed").into());
        }
        let calls = whole.call_count();
        println!("{name}: {calls} changes");
        let faults = [
            Fault::Errno(EIO),
            Fault::Error(IoErrorKind::StorageFull),
            Fault::Partial {
                bytes: 700,
                errno: EIO,
            },
        ];
        let mut all: Vec<Disturbed> = ROOM.map(Disturbed::Full).to_vec();
        for number in (1..=calls).step_by(self.options.every.max(1)) {
            all.push(Disturbed::Cut(number));
            let fault = self.random.pick(&faults).copied();
            all.extend(fault.map(|fault| Disturbed::Fails(number, fault)));
        }
        // Cut when all was done and said to be.
        all.push(Disturbed::Cut(calls + 1));
        for how in all {
            self.watchdog.begins(format!("{name}: {how:?}"));
            self.disturbed(step, how)?;
            if self.options.common.is_enough(self.tally) {
                break;
            }
        }
        self.tree = whole.live();
        Ok(())
    }

    fn disturbed(&mut self, step: &Move, how: Disturbed) -> Result<(), Failure> {
        let backend = FaultBackend::new(&self.tree);
        match how {
            Disturbed::Cut(number) => backend.cut_at(number),
            Disturbed::Fails(number, fault) => backend.fail_at(number, fault),
            Disturbed::Full(bytes) => backend.limit_bytes(bytes),
        }
        let code = self.command(&backend, step)?;
        let expected = match (code, how) {
            (Some(0), _) => Expected::New,
            (_, Disturbed::Cut(_)) | (Some(UNCERTAIN), _) => Expected::Either,
            (Some(_), _) if step.sort == Sort::OneByOne => Expected::Either,
            (Some(_), _) => Expected::Old,
            (None, _) => {
                self.tally.tries();
                let name = step.step.name;
                let problem = format!("{name}, {how:?}: it was ended by a signal");
                self.tally.differs(&problem);
                return Ok(());
            }
        };
        if !matches!(how, Disturbed::Cut(_)) {
            self.look(step, &format!("{how:?}, alive"), &backend.live(), expected)?;
        }
        let far = usize::try_from(self.random.below(40))?;
        let last = backend.crash_states().take(far + 1).last();
        if let Some(CrashState { what, image }) = last {
            self.look(step, &format!("{how:?}: {what}"), &image, expected)?;
        }
        Ok(())
    }

    /// Runs the command on a tree; its exit code.
    fn command(&self, backend: &FaultBackend, step: &Move) -> Result<Option<i32>, Failure> {
        let mounted = Mounted::new(backend, self.options.lose_synced)?;
        let store = mounted.join("store");
        let mut command = self.oracle.command(&store, &step.step.arguments);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        if let Some(name) = self.options.common.sabotage() {
            command.env("VMSNAP_SABOTAGE", name);
        }
        let status = command.status()?;
        mounted.unmount()?;
        Ok(status.code())
    }

    /// Judges what a tree holds.
    fn look(
        &mut self,
        step: &Move,
        how: &str,
        tree: &MemBackend,
        expected: Expected,
    ) -> Result<(), Failure> {
        self.tally.tries();
        let backend = FaultBackend::new(tree);
        let mut problem = None;
        // What is damaged still must be such that the next repair mends it.
        if matches!(step.sort, Sort::Mends(_)) && expected != Expected::New {
            let code = self.command(&backend, step)?;
            problem = (code != Some(0)).then(|| format!("the next one ends with {code:?}"));
        }
        let mounted = Mounted::new(&backend, false)?;
        let found = self.oracle.look(&mounted.join("store"), &self.inputs);
        mounted.unmount()?;
        let problem = problem.or_else(|| judge(found, expected, step).err());
        if let Some(problem) = problem {
            let name = step.step.name;
            self.tally.differs(&format!("{name}, {how}: {problem}"));
        }
        Ok(())
    }

    /// Flips a bit of the memory of a snapshot.
    fn damage(&self, name: &str) -> Result<(), Failure> {
        let mounted = Mounted::new(&FaultBackend::new(&self.tree), false)?;
        let id = self.oracle.id(&mounted.join("store"), name);
        mounted.unmount()?;
        let mut path = RelPath::root();
        for part in ["store", "snapshots", &id?, "memory.img"] {
            path = path.join(part)?;
        }
        self.tree.tamper(&path, |bytes| {
            if let Some(byte) = bytes.iter_mut().rev().find(|byte| **byte != 0) {
                *byte ^= 4;
            }
        })?;
        Ok(())
    }
}

fn judge(found: Result<Set, String>, expected: Expected, of: &Move) -> Result<(), String> {
    let (found, step) = (found?, &of.step);
    let is_right = match expected {
        Expected::Old => found == step.old,
        Expected::New => found == step.new,
        Expected::Either if of.sort == Sort::OneByOne => {
            found.is_subset(&step.old) && found.is_superset(&step.new)
        }
        Expected::Either => found == step.old || found == step.new,
    };
    if is_right {
        Ok(())
    } else {
        Err(format!("it holds {found:?}, and {expected:?} was expected"))
    }
}
