//! One operation, in one way.

use std::fmt;
use std::io::ErrorKind as IoErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use snapshot_memory::backend::{Fault, FaultBackend, MemBackend};
use snapshot_store::{ErrorKind, Store, StoreError};

use super::damage;
use super::found::Allowed;
use super::mended;
use super::plan::{DELETE, OPERATIONS, Operation, Plan};
use super::world::{World, judge, opening};
use crate::random::Random;
use crate::stored_guest::tell;

/// Snapshots in use beyond which most steps delete one.
const MANY: usize = 14;

/// Where an image is held, one in so many steps may be disturbed: readers end then.
const READERS_END: u64 = 8;

/// What happens to an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum How {
    /// Nothing.
    Undisturbed,
    /// The power is cut in the middle of it, or when it is done.
    Cut,
    /// A call of it fails.
    FailedCall,
    /// The file system becomes full.
    Full,
    /// A bit of a file was flipped before, and is flipped back later.
    BesideDamage,
    /// Not at all: a bit of a file is flipped, and repaired.
    Repair,
}

/// How often each happens.
const HOW: [(How, u64); 6] = [
    (How::Undisturbed, 10),
    (How::Cut, 3),
    (How::FailedCall, 2),
    (How::Full, 1),
    (How::BesideDamage, 2),
    (How::Repair, 1),
];

/// What a seed makes of a step depends on the store that it meets, and on nothing else.
#[derive(Clone, Copy)]
pub(super) struct Step {
    operation: &'static Operation,
    how: How,
    seed: u64,
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} {:#x}", self.operation.name, self.how, self.seed)
    }
}

impl Step {
    /// A step for the store as it is now.
    pub(super) fn choose(world: &World, random: &mut Random) -> Option<Self> {
        let weights = OPERATIONS.iter().map(|one| (one, one.weight));
        let mut operation = weighed(weights, random)?;
        if world.model.live().count() > MANY && !random.is_one_in(3) {
            operation = OPERATIONS.iter().find(|one| one.name == DELETE)?;
        }
        let mut how = weighed(HOW.into_iter(), random)?;
        if !world.model.held.is_empty() && !random.is_one_in(READERS_END) {
            how = How::Undisturbed;
        }
        let seed = random.next();
        Some(Self {
            operation,
            how,
            seed,
        })
    }

    /// What it is, to be counted by.
    pub(super) fn kind(self) -> String {
        match self.how {
            How::Undisturbed => self.operation.name.to_owned(),
            how => format!("{how:?}"),
        }
    }

    /// Does it. The words say what was done, if anything could be; the error, what is wrong then.
    pub(super) fn run(self, world: &mut World) -> Result<Option<String>, String> {
        let run = catch_unwind(AssertUnwindSafe(|| self.run_as_it_is(world)));
        run.unwrap_or_else(|_| Err(format!("{self:?}: it panics")))
    }

    fn run_as_it_is(self, world: &mut World) -> Result<Option<String>, String> {
        let mut random = Random::new(self.seed);
        if self.how != How::Undisturbed {
            // Readers end with the process.
            world.release();
        }
        if self.how == How::Repair {
            return mended::repair(world, &mut random);
        }
        let Some(plan) = (self.operation.plan)(&world.model, &mut random) else {
            return Ok(None);
        };
        let what = format!("{plan:?} ({:?})", self.how);
        let done = match self.how {
            How::Undisturbed => world.perform_undisturbed(plan),
            How::BesideDamage => damage::perform_beside(world, plan, &mut random),
            how => disturbed(world, plan, how, &mut random),
        };
        done.map_err(|problem| format!("{what}: {problem}"))?;
        Ok(Some(what))
    }
}

fn weighed<T>(choices: impl Iterator<Item = (T, u64)> + Clone, random: &mut Random) -> Option<T> {
    let mut at = random.below(choices.clone().map(|(_, weight)| weight).sum());
    for (choice, weight) in choices {
        if at < weight {
            return Some(choice);
        }
        at -= weight;
    }
    None
}

/// Does the operation on a backend that cuts or fails, and goes on with what that leaves.
fn disturbed(
    world: &mut World,
    mut plan: Plan,
    how: How,
    random: &mut Random,
) -> Result<(), String> {
    let backend = FaultBackend::new(&world.tree);
    let store = Store::open(Arc::new(backend.clone()), &opening());
    let store = store.map_err(|error| format!("open: {}", tell(&error)))?;
    let bound = 2 << random.below(6);
    let number = backend.call_count() + 1 + usize::try_from(random.below(bound)).unwrap_or(0);
    match how {
        How::Cut => backend.cut_at(number),
        How::Full => backend.limit_bytes(random.below(100_000)),
        _ => backend.fail_at(number, fault(random)),
    }
    let (result, violation) = world.perform(&mut plan, Some(&store));
    drop(store);
    world.release();
    plan.after.held.clear();
    let is_reached = how == How::Full || backend.call_count() >= number;
    let allowed = if is_reached {
        after_a_fault(&plan, how, &result)
    } else {
        violation.map_or(Ok(()), Err)?;
        judge(&plan, &result)?
    };
    let is_power_lost = how == How::Cut || random.is_one_in(3);
    if is_power_lost {
        let tree = crash(&backend, random)?;
        world.move_to(&reopened_in_vain(&tree, random)?)?;
    } else {
        world.move_to(&backend.live())?;
    }
    world.settle(&plan, allowed)
}

/// What the store may hold where a call failed.
fn after_a_fault(plan: &Plan, how: How, result: &Result<(), StoreError>) -> Allowed {
    match result {
        Ok(()) if plan.is_open => Allowed::Either,
        Ok(()) => Allowed::After,
        Err(_) if how == How::Cut || !plan.is_atomic => Allowed::Either,
        Err(error) if error.kind() == ErrorKind::DurabilityUncertain => Allowed::Either,
        Err(_) => Allowed::Before,
    }
}

fn fault(random: &mut Random) -> Fault {
    const EIO: i32 = 5;
    const ENOSPC: i32 = 28;
    match random.below(4) {
        0 => Fault::Error(IoErrorKind::StorageFull),
        1 => Fault::Error(IoErrorKind::QuotaExceeded),
        2 => Fault::Errno(EIO),
        _ => Fault::Partial {
            bytes: usize::try_from(random.below(4096)).unwrap_or(0),
            errno: ENOSPC,
        },
    }
}

/// One of the trees that a machine may find after losing power now.
fn crash(backend: &FaultBackend, random: &mut Random) -> Result<MemBackend, String> {
    let bound = 1 << random.below(6);
    let far = usize::try_from(random.below(bound)).unwrap_or(0);
    let state = backend.crash_states().take(far + 1).last();
    Ok(state.ok_or("no tree is left")?.image)
}

/// The same tree, or what a loss of power while it is opened leaves of it.
fn reopened_in_vain(tree: &MemBackend, random: &mut Random) -> Result<MemBackend, String> {
    if !random.is_one_in(4) {
        return Ok(tree.clone());
    }
    let backend = FaultBackend::new(tree);
    backend.cut_at(1 + usize::try_from(random.below(8)).unwrap_or(0));
    drop(Store::open(Arc::new(backend.clone()), &opening()));
    crash(&backend, random)
}
