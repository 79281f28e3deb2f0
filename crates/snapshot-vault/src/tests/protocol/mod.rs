//! The protocol of a vault, as a model whose every interleaving is looked at.
//!
//! The steps are those of the specification: each is one call to the store of objects. Between any two
//! of them any other process may run. One that is slow, frozen or dead is one that runs later or
//! never: nothing in a vault is locked.

mod collecting;
mod state;
mod writing;

use std::collections::HashSet;

use state::{
    A, A_FULL, AT_START, B, B_DELTA, B_FULL, Change, PROCESSES, Process, Role, Set, State, Step,
    members, one,
};

/// A part of the protocol that may be left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    /// The recipe is there before its chunks are looked for again.
    RecipeFirst,
    /// They are looked for again.
    CheckAgain,
    /// Tombstones are listed before packs.
    TombstonesFirst,
    /// A writer looks for a withdrawal after its commit.
    LookForWithdrawal,
    /// A withdrawal is there before the commit is looked for.
    WithdrawalFirst,
    /// What was withdrawn is archived under another id.
    FreshRecipe,
    /// Leases are listed after what is in the trash.
    LeasesLast,
    /// A reader puts a lease before it looks whether there is an archive.
    LeaseThenLook,
    /// He looks for the trash object first, which is the last that goes.
    TrashLookedForFirst,
    /// Of what expires, the trash object is deleted last.
    TrashGoesLast,
    /// A collection marks after its tombstone is there.
    SecondMark,
    /// It lists recipes after tombstones and packs.
    RecipesLast,
    /// It counts on no pack that another one condemned.
    CondemnedByOthers,
    /// A pack that was condemned stays so.
    CondemnedForEver,
    /// It carries out those tombstones alone that it listed before it marked.
    ListedTombstones,
    /// A tombstone is deleted after its packs.
    TombstoneGoesLast,
    /// Recipes that lack a chunk and have no commit are withdrawn.
    LostIsWithdrawn,
    /// A pack whose `put` failed is put under another id.
    FreshPack,
}

impl Part {
    const ALL: [Self; 18] = [
        Self::RecipeFirst,
        Self::CheckAgain,
        Self::TombstonesFirst,
        Self::LookForWithdrawal,
        Self::WithdrawalFirst,
        Self::FreshRecipe,
        Self::LeasesLast,
        Self::LeaseThenLook,
        Self::TrashLookedForFirst,
        Self::TrashGoesLast,
        Self::SecondMark,
        Self::RecipesLast,
        Self::CondemnedByOthers,
        Self::CondemnedForEver,
        Self::ListedTombstones,
        Self::TombstoneGoesLast,
        Self::LostIsWithdrawn,
        Self::FreshPack,
    ];
}

/// What processes do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Protocol {
    lacks: Option<Part>,
    /// A collection that takes all there is, for what is left in the end.
    is_settling: bool,
}

impl Protocol {
    fn has(self, part: Part) -> bool {
        self.lacks != Some(part)
    }
}

impl State {
    /// What may come after the next step of a process: nothing where it has ended.
    fn after(&self, who: usize, protocol: Protocol) -> Vec<Self> {
        let process = &self.processes[who];
        if process.step == Step::Ended {
            return Vec::new();
        }
        match process.role {
            Role::Writer { .. } | Role::Undeleter { .. } => self.write(who, protocol),
            Role::Deleter { of } => self.delete(who, of, protocol),
            Role::Reader { of } => self.read(who, of, protocol),
            Role::Collector { .. } => self.collect(who, protocol),
        }
    }

    /// The process goes on with another step.
    fn to(&self, who: usize, step: Step) -> Vec<Self> {
        let mut next = *self;
        let process = &mut next.processes[who];
        process.step = step;
        if step == Step::Ended {
            // What it remembers makes no difference any more.
            *process = Process::new(process.role, step);
        }
        vec![next]
    }

    /// The call happens, or fails: then it may happen later, and the process makes it again.
    fn call(&self, who: usize, change: Change, after: Vec<Self>, protocol: Protocol) -> Vec<Self> {
        let mut all = after;
        for next in &mut all {
            next.apply(change);
        }
        if self.failures > 0 && self.late.is_none() {
            let mut failed = *self;
            failed.failures -= 1;
            failed.late = Some(change);
            let made = &mut failed.processes[who].packs;
            if matches!(change, Change::PutPack(..)) && protocol.has(Part::FreshPack) {
                *made += 1;
            }
            if *made < 2 {
                all.push(failed);
            } else {
                all.extend(failed.to(who, Step::Ended));
            }
        }
        all
    }

    /// The first of the two lists.
    fn list(&self, who: usize, protocol: Protocol) -> Self {
        self.listed(who, protocol, protocol.has(Part::TombstonesFirst))
    }

    /// The second one.
    fn list_more(&self, who: usize, protocol: Protocol) -> Self {
        self.listed(who, protocol, !protocol.has(Part::TombstonesFirst))
    }

    fn listed(&self, who: usize, protocol: Protocol, tombstones: bool) -> Self {
        let mut next = *self;
        let process = &mut next.processes[who];
        if tombstones {
            let is_collector = matches!(process.role, Role::Collector { .. });
            let is_blind = is_collector && !protocol.has(Part::CondemnedByOthers);
            let counted = if is_blind { one(who) } else { Set::MAX };
            process.tombstones = if is_collector { self.tombstones } else { 0 };
            let named = members(self.tombstones & counted).map(|slot| self.names[slot]);
            process.condemned = named.fold(0, |all, names| all | names);
        } else {
            process.listed = self.packs;
        }
        next
    }

    /// The id of the pack that a process makes next.
    fn new_pack(&self, who: usize) -> usize {
        AT_START + 2 * who + usize::from(self.processes[who].packs)
    }

    /// The recipe that a process makes or has made.
    fn recipe_of(&self, who: usize) -> Set {
        one(AT_START + 2 * who + usize::from(self.processes[who].recipes))
    }
}

const COLLECT: Role = Role::Collector {
    expires: false,
    withdraws: false,
    condemns: true,
};
const EXPIRE: Role = Role::Collector {
    expires: true,
    withdraws: false,
    condemns: true,
};
const WITHDRAW: Role = Role::Collector {
    expires: false,
    withdraws: true,
    condemns: true,
};

const FINISH: Role = Role::Collector {
    expires: false,
    withdraws: false,
    condemns: false,
};

/// What there is at the start, and processes that start at the same time.
fn scenarios() -> Vec<State> {
    let write = |needs| Role::Writer {
        needs,
        may_stop: false,
    };
    let stop = Role::Writer {
        needs: A,
        may_stop: true,
    };
    let undelete = Role::Undeleter { of: 0 };
    let delete = Role::Deleter { of: 0 };
    let read = Role::Reader { of: 0 };
    // Small ones first, as a violation is looked for in one after the other.
    vec![
        State::new(&[write(B), COLLECT])
            .pack(0, A_FULL | B_DELTA)
            .pack(1, B_FULL)
            .archive(0, A | B),
        State::new(&[COLLECT, COLLECT])
            .pack(0, A_FULL)
            .pack(1, A_FULL)
            .archive(0, A),
        State::new(&[write(A), COLLECT])
            .pack(0, A_FULL)
            .pack(1, A_FULL)
            .condemned(one(0)),
        State::new(&[read, delete, EXPIRE])
            .pack(0, A_FULL)
            .archive(0, A),
        State::new(&[stop, WITHDRAW]).pack(0, A_FULL),
        State::new(&[write(A), COLLECT])
            .pack(0, A_FULL)
            .unfinished(0, B),
        State::new(&[write(A), COLLECT, FINISH]).failing(1),
        State::new(&[write(A), COLLECT, COLLECT]).pack(0, A_FULL),
        State::new(&[undelete, EXPIRE, COLLECT])
            .pack(0, A_FULL)
            .in_trash(0, A),
    ]
}

/// Visits every state that can be reached, and gives how many there are; or the first violation.
fn explore(start: State, protocol: Protocol) -> Result<usize, String> {
    let mut known = HashSet::from([start]);
    let mut settled = HashSet::new();
    let mut open = vec![start];
    while let Some(state) = open.pop() {
        if let Some(violation) = state.violation() {
            return Err(format!("{violation}: {state:?}"));
        }
        // It depends on what there is alone.
        let mut objects = state;
        objects.processes = start.processes;
        if settled.insert(objects) {
            check_settled(&objects, protocol)?;
        }
        if let Some(change) = state.late {
            let mut next = state;
            next.apply(change);
            next.late = None;
            if known.insert(next) {
                open.push(next);
            }
        }
        for who in 0..PROCESSES - 1 {
            for mut next in state.after(who, protocol) {
                next.forget_the_gone();
                if known.insert(next) {
                    open.push(next);
                }
            }
        }
    }
    Ok(known.len())
}

/// That one more collection leaves nothing that nobody needs, whatever the others were about to do.
fn check_settled(stopped: &State, protocol: Protocol) -> Result<(), String> {
    let mut state = *stopped;
    let protocol = Protocol {
        is_settling: true,
        ..protocol
    };
    // What was withdrawn as lost, the next collection collects.
    for (number, withdraws) in [false, false, true].into_iter().enumerate() {
        let who = PROCESSES - 1;
        let role = Role::Collector {
            expires: true,
            withdraws,
            condemns: true,
        };
        state.processes[who] = Process::new(role, Step::Start);
        while let Some(next) = state.after(who, protocol).into_iter().next() {
            state = next;
            if let Some(violation) = state.violation() {
                return Err(format!("{violation}: {state:?}"));
            }
        }
        if number == 0 {
            continue;
        }
        let unfinished = state.recipes & !state.commits;
        let is_left = withdraws && unfinished != 0;
        let expired = state.trash & !state.leases;
        if is_left || state.garbage() | state.tombstones | expired != 0 {
            return Err(format!("garbage remains of {stopped:?}: {state:?}"));
        }
    }
    Ok(())
}

// spec: VGC-02, VGC-03, VGC-09, VGC-11, VGC-19
#[test]
fn nothing_that_an_archive_needs_goes_however_processes_interleave_stop_and_die() {
    let protocol = Protocol {
        lacks: None,
        is_settling: false,
    };
    for (number, start) in scenarios().into_iter().enumerate() {
        match explore(start, protocol) {
            Ok(states) => eprintln!("scenario {number}: {states} states"),
            Err(violation) => unreachable!("scenario {number}: {violation}"),
        }
    }
}

// spec: VGC-12, VGC-13, VGC-14, VGC-18, VGC-22
#[test]
fn each_part_of_the_protocol_is_needed() {
    for part in Part::ALL {
        let protocol = Protocol {
            lacks: Some(part),
            is_settling: false,
        };
        let mut scenarios = scenarios().into_iter();
        assert!(
            scenarios.any(|start| explore(start, protocol).is_err()),
            "{part:?} is not needed"
        );
    }
}
