//! What a domain holds, and where each process is.

/// A set of packs, recipes or tombstones: a bit each.
pub(super) type Set = u16;

/// Records of a pack, chunks of a recipe: a bit each.
pub(super) type Bits = u8;

/// A full record of chunk A.
pub(super) const A_FULL: Bits = 1;
/// A full record of chunk B.
pub(super) const B_FULL: Bits = 2;
/// A delta of chunk B, whose base is A.
pub(super) const B_DELTA: Bits = 4;

/// That a recipe names chunk A.
pub(super) const A: Bits = 1;
/// That a recipe names chunk B.
pub(super) const B: Bits = 2;

/// Packs and recipes that are there at the start; each process may make two of each.
pub(super) const AT_START: usize = 3;
pub(super) const SLOTS: usize = AT_START + 2 * PROCESSES;
/// Processes, the last of which is kept for a collection in the end.
pub(super) const PROCESSES: usize = 4;

/// The chunks that can be made of these records.
pub(super) const fn available(records: Bits) -> Bits {
    let a = records & A_FULL != 0;
    let b = records & B_FULL != 0 || (records & B_DELTA != 0 && a);
    (if a { A } else { 0 }) | (if b { B } else { 0 })
}

/// The records that chunks may be made of: the base of a delta is one of them.
pub(super) const fn of_use(needed: Bits) -> Bits {
    if needed & B != 0 {
        A_FULL | B_FULL | B_DELTA
    } else {
        needed & A
    }
}

pub(super) const fn one(slot: usize) -> Set {
    1 << slot
}

/// The members of a set, ascending.
pub(super) fn members(set: Set) -> impl Iterator<Item = usize> {
    (0..SLOTS).filter(move |slot| set & one(*slot) != 0)
}

/// What a process does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Role {
    /// Archives something with these chunks; B as a delta where A is there.
    Writer { needs: Bits, may_stop: bool },
    /// Puts an archive into the trash.
    Deleter { of: usize },
    /// Archives what is in the trash once more, out of the packs.
    Undeleter { of: usize },
    /// Leases an archive, and reads it for ever.
    Reader { of: usize },
    /// Collects, after packs were condemned; before, ends what is in the trash, and what was not
    /// finished.
    Collector {
        expires: bool,
        withdraws: bool,
        condemns: bool,
    },
}

/// The next step of a process.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(super) enum Step {
    Start,
    // Writing.
    ListTombstones,
    ListPacks,
    PutPack,
    PutRecipe,
    PutCommit,
    GetWithdrawal,
    TakeBackCommit,
    TakeBackRecipe,
    GiveUp,
    GiveUpUnlessDone,
    GiveUpRecipe,
    // Bringing back, deleting, reading.
    GetRecipe,
    GetCommit,
    GetTrash,
    PutTrash,
    // Expiring and withdrawing.
    ListTrash,
    ListLeases,
    ExpireRecipe,
    ExpireCommit,
    ExpireTrash,
    ListCommits,
    ListUnfinished,
    Withdraw,
    WithdrawUnlessDone,
    WithdrawRecipe,
    // Collecting.
    Choose,
    PutTombstone,
    ListRecipes,
    ReadRecipes,
    Copy,
    DeletePacks,
    Ended,
}

/// A change of the store: one call.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Change {
    PutPack(usize, Bits),
    DeletePack(usize),
    PutTombstone(usize, Set),
    DeleteTombstone(usize),
    PutRecipe(usize, Bits),
    DeleteRecipe(usize),
    PutCommit(usize),
    DeleteCommit(usize),
    PutWithdrawal(usize),
    PutTrash(usize),
    DeleteTrash(usize),
    PutLease(usize),
}

/// A process: what it does, how far it is, and what it remembers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Process {
    pub(super) role: Role,
    pub(super) step: Step,
    /// Packs and recipes that it has made.
    pub(super) packs: u8,
    pub(super) recipes: u8,
    /// Whether it has marked, or looked for what it needs, before.
    pub(super) is_again: bool,
    /// Whether it has gone a way that it must not go.
    pub(super) is_wrong: bool,
    /// What its tombstone names, or will name.
    pub(super) chosen: Set,
    /// Tombstones of its last list, and the packs that they name.
    pub(super) tombstones: Set,
    pub(super) condemned: Set,
    /// Packs of its last list that it counts on, or may delete.
    pub(super) listed: Set,
    /// Recipes that it works at.
    pub(super) recipes_at: Set,
    /// Chunks that it needs.
    pub(super) needs: Bits,
    /// Records that it is going to put.
    pub(super) puts: Bits,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct State {
    pub(super) packs: Set,
    pub(super) records: [Bits; SLOTS],
    /// Each process puts one tombstone at most; the last one was there before.
    pub(super) tombstones: Set,
    pub(super) names: [Set; PROCESSES + 1],
    pub(super) recipes: Set,
    pub(super) needs: [Bits; SLOTS],
    pub(super) commits: Set,
    pub(super) withdrawals: Set,
    pub(super) trash: Set,
    /// Archives that readers put leases for, and of them, those that they found in order.
    pub(super) leases: Set,
    pub(super) held: Set,
    /// Recipes whose writers have found every chunk, and those that were told of as archives.
    pub(super) covered: Set,
    pub(super) told: Set,
    /// Archives that were deleted at some time.
    pub(super) deleted: Set,
    /// A call that failed and may happen yet, and how many more may fail.
    pub(super) late: Option<Change>,
    pub(super) failures: u8,
    pub(super) processes: [Process; PROCESSES],
}

impl Process {
    pub(super) const fn new(role: Role, step: Step) -> Self {
        Self {
            role,
            step,
            packs: 0,
            recipes: 0,
            is_again: false,
            is_wrong: false,
            chosen: 0,
            tombstones: 0,
            condemned: 0,
            listed: 0,
            recipes_at: 0,
            needs: 0,
            puts: 0,
        }
    }
}

impl State {
    /// An empty domain with processes that have not begun; those that lack have ended.
    pub(super) fn new(roles: &[Role]) -> Self {
        let nobody = Process::new(Role::Deleter { of: 0 }, Step::Ended);
        let mut processes = [nobody; PROCESSES];
        for (process, role) in processes.iter_mut().zip(roles) {
            *process = Process::new(*role, Step::Start);
        }
        Self {
            packs: 0,
            records: [0; SLOTS],
            tombstones: 0,
            names: [0; PROCESSES + 1],
            recipes: 0,
            needs: [0; SLOTS],
            commits: 0,
            withdrawals: 0,
            trash: 0,
            leases: 0,
            held: 0,
            covered: 0,
            told: 0,
            deleted: 0,
            late: None,
            failures: 0,
            processes,
        }
    }

    /// With a pack of these records at the start.
    pub(super) fn pack(mut self, slot: usize, records: Bits) -> Self {
        self.apply(Change::PutPack(slot, records));
        self
    }

    /// With an archive at the start.
    pub(super) fn archive(mut self, slot: usize, needs: Bits) -> Self {
        self.apply(Change::PutRecipe(slot, needs));
        self.apply(Change::PutCommit(slot));
        self.covered |= one(slot);
        self.told |= one(slot);
        self
    }

    /// With an archive at the start that is in the trash.
    pub(super) fn in_trash(self, slot: usize, needs: Bits) -> Self {
        let mut state = self.archive(slot, needs);
        state.apply(Change::PutTrash(slot));
        state
    }

    /// With the recipe of a writer that died before it looked for its chunks.
    pub(super) fn unfinished(mut self, slot: usize, needs: Bits) -> Self {
        self.apply(Change::PutRecipe(slot, needs));
        self
    }

    /// With the tombstone of a collector that died.
    pub(super) fn condemned(mut self, packs: Set) -> Self {
        self.apply(Change::PutTombstone(PROCESSES, packs));
        self
    }

    /// Where this many calls fail, and may happen later.
    pub(super) const fn failing(mut self, calls: u8) -> Self {
        self.failures = calls;
        self
    }

    /// What a call does. A `put` of what is there is refused or puts the same bytes: one or the other.
    pub(super) fn apply(&mut self, change: Change) {
        match change {
            Change::PutPack(slot, records) => {
                self.packs |= one(slot);
                self.records[slot] = records;
            }
            // What it held, others remember.
            Change::DeletePack(slot) => self.packs &= !one(slot),
            Change::PutTombstone(slot, names) => {
                self.tombstones |= one(slot);
                self.names[slot] = names;
            }
            // What it named, others remember.
            Change::DeleteTombstone(slot) => self.tombstones &= !one(slot),
            Change::PutRecipe(slot, needs) => {
                self.recipes |= one(slot);
                self.needs[slot] = needs;
            }
            Change::DeleteRecipe(slot) => {
                self.recipes &= !one(slot);
                self.covered &= !one(slot);
                self.needs[slot] = 0;
            }
            Change::PutCommit(slot) => self.commits |= one(slot),
            Change::DeleteCommit(slot) => self.commits &= !one(slot),
            Change::PutWithdrawal(slot) => self.withdrawals |= one(slot),
            Change::PutTrash(slot) => {
                self.trash |= one(slot);
                self.deleted |= one(slot);
            }
            Change::DeleteTrash(slot) => self.trash &= !one(slot),
            Change::PutLease(slot) => self.leases |= one(slot),
        }
    }

    /// Forgets what no step asks for any more, so that states which differ in nothing else are one.
    pub(super) fn forget(&mut self, who: usize) {
        let process = &mut self.processes[who];
        (process.listed, process.condemned) = (0, 0);
    }

    /// What tombstones named and packs held that are gone, and that nobody remembers.
    pub(super) fn forget_the_gone(&mut self) {
        let known = self.processes.iter();
        let known = known.fold(self.packs, |all, process| all | process.listed);
        for (slot, records) in self.records.iter_mut().enumerate() {
            if known & one(slot) == 0 {
                *records = 0;
            }
        }
        let known = self.processes.iter();
        let known = known.fold(self.tombstones, |all, process| all | process.tombstones);
        for (slot, names) in self.names.iter_mut().enumerate() {
            if known & one(slot) == 0 {
                *names = 0;
            }
        }
    }

    /// All records of these packs.
    pub(super) fn records_of(&self, packs: Set) -> Bits {
        members(packs).fold(0, |all, slot| all | self.records[slot])
    }

    /// All chunks that these recipes name.
    pub(super) fn needs_of(&self, recipes: Set) -> Bits {
        members(recipes).fold(0, |all, slot| all | self.needs[slot])
    }

    /// The chunks that can be read now.
    pub(super) fn readable(&self) -> Bits {
        available(self.records_of(self.packs))
    }

    /// Packs of which no recipe has any use.
    pub(super) fn garbage(&self) -> Set {
        let of_use = of_use(self.needs_of(self.recipes));
        let is_of_use = |slot: &usize| self.records[*slot] & of_use != 0;
        let kept = members(self.packs).filter(is_of_use);
        self.packs & !kept.fold(0, |all, slot| all | one(slot))
    }

    /// What must never be, if it is.
    pub(super) fn violation(&self) -> Option<&'static str> {
        let readable = self.readable();
        let counting = self.recipes & (self.covered | self.commits);
        if self.needs_of(counting) & !readable != 0 {
            return Some("an archive lacks a chunk");
        }
        if self.told & !self.deleted & !(self.recipes & self.commits) != 0 {
            return Some("an archive went that nobody deleted");
        }
        if self.held & !(self.recipes & self.commits) != 0 {
            return Some("a leased archive went");
        }
        None
    }
}
