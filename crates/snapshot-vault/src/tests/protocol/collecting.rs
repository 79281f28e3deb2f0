//! The steps of a collection.

use super::state::{Change, Process, Role, Set, State, Step, available, members, one};
use super::writing::records_for;
use super::{Part, Protocol};

impl State {
    /// What may come after the next step of a collector.
    pub(super) fn collect(&self, who: usize, protocol: Protocol) -> Vec<Self> {
        let process = &self.processes[who];
        let slot = members(process.recipes_at).next();
        match (process.step, slot) {
            (Step::Start, _) => self.to(who, first_step(process)),
            (Step::ListTrash | Step::ListLeases, _) => self.list_trash(who, protocol),
            (Step::ExpireRecipe | Step::ExpireCommit | Step::ExpireTrash, Some(slot)) => {
                self.expire(who, slot, protocol)
            }
            (Step::ExpireRecipe, None) => self.to(who, Step::Choose),
            (Step::ListCommits | Step::ListUnfinished, _) => self.list_unfinished(who),
            (Step::Withdraw | Step::WithdrawUnlessDone | Step::WithdrawRecipe, Some(slot)) => {
                self.withdraw(who, slot, protocol)
            }
            (Step::Withdraw, None) if process.is_again => self.to(who, Step::ListTombstones),
            (Step::Withdraw, None) => self.to(who, after_withdrawals(process)),
            (Step::Choose, _) => self.choose(who, protocol),
            _ => self.sweep(who, protocol),
        }
    }

    fn list_trash(&self, who: usize, protocol: Protocol) -> Vec<Self> {
        let mut next = *self;
        let process = &mut next.processes[who];
        let is_trash = (process.step == Step::ListTrash) == protocol.has(Part::LeasesLast);
        let is_first = process.step == Step::ListTrash;
        match (is_trash, is_first) {
            (true, true) => process.recipes_at = self.trash,
            (true, false) => process.recipes_at = self.trash & !process.recipes_at,
            (false, true) => process.recipes_at = self.leases,
            (false, false) => process.recipes_at &= !self.leases,
        }
        let after = if is_first {
            Step::ListLeases
        } else {
            Step::ExpireRecipe
        };
        next.to(who, after)
    }

    fn expire(&self, who: usize, slot: usize, protocol: Protocol) -> Vec<Self> {
        let mut next = *self;
        let trash_goes_first = !protocol.has(Part::TrashGoesLast);
        let (change, after) = match self.processes[who].step {
            Step::ExpireRecipe if trash_goes_first => {
                (Change::DeleteTrash(slot), Step::ExpireCommit)
            }
            Step::ExpireRecipe => (Change::DeleteRecipe(slot), Step::ExpireCommit),
            Step::ExpireCommit => (Change::DeleteCommit(slot), Step::ExpireTrash),
            _ if trash_goes_first => (Change::DeleteRecipe(slot), Step::ExpireRecipe),
            _ => (Change::DeleteTrash(slot), Step::ExpireRecipe),
        };
        if after == Step::ExpireRecipe {
            next.processes[who].recipes_at &= !one(slot);
        }
        self.call(who, change, next.to(who, after), protocol)
    }

    /// Commits, then the recipes that have none.
    fn list_unfinished(&self, who: usize) -> Vec<Self> {
        let mut next = *self;
        let process = &mut next.processes[who];
        if process.step == Step::ListCommits {
            process.recipes_at = self.commits;
            return next.to(who, Step::ListUnfinished);
        }
        process.recipes_at = self.recipes & !process.recipes_at;
        next.to(who, Step::Withdraw)
    }

    fn withdraw(&self, who: usize, slot: usize, protocol: Protocol) -> Vec<Self> {
        let is_withdrawal_first = protocol.has(Part::WithdrawalFirst);
        let mut next = *self;
        let mut skip = *self;
        skip.processes[who].recipes_at &= !one(slot);
        let put = Change::PutWithdrawal(slot);
        let is_done = self.commits & one(slot) != 0;
        match (self.processes[who].step, is_withdrawal_first) {
            (Step::Withdraw, true) => {
                self.call(who, put, self.to(who, Step::WithdrawUnlessDone), protocol)
            }
            (Step::WithdrawUnlessDone, true) | (Step::Withdraw, false) if is_done => {
                skip.to(who, Step::Withdraw)
            }
            (Step::WithdrawUnlessDone, true) => self.to(who, Step::WithdrawRecipe),
            (Step::Withdraw, false) => self.to(who, Step::WithdrawUnlessDone),
            (Step::WithdrawUnlessDone, false) => {
                self.call(who, put, self.to(who, Step::WithdrawRecipe), protocol)
            }
            _ => {
                next.processes[who].recipes_at &= !one(slot);
                self.call(
                    who,
                    Change::DeleteRecipe(slot),
                    next.to(who, Step::Withdraw),
                    protocol,
                )
            }
        }
    }

    /// Any packs that are there may be condemned: those that nobody needs, or that are copied.
    fn choose(&self, who: usize, protocol: Protocol) -> Vec<Self> {
        let there = if protocol.has(Part::SecondMark) && !protocol.is_settling {
            self.packs
        } else {
            self.garbage()
        };
        let condemns = matches!(
            self.processes[who].role,
            Role::Collector { condemns: true, .. }
        );
        let there = if condemns { there } else { 0 };
        let subsets = (0..=there).filter(|chosen| chosen & !there == 0);
        // One that settles takes all.
        let subsets = subsets.filter(|chosen| !protocol.is_settling || *chosen == there);
        let chosen = subsets.flat_map(|chosen: Set| {
            let mut next = *self;
            let process = &mut next.processes[who];
            process.chosen = chosen;
            process.is_again = true;
            let after = match chosen {
                0 => Step::ListTombstones,
                _ => Step::PutTombstone,
            };
            next.to(who, after)
        });
        chosen.collect()
    }

    fn sweep(&self, who: usize, protocol: Protocol) -> Vec<Self> {
        let process = &self.processes[who];
        match process.step {
            Step::PutTombstone => {
                let mut next = *self;
                let change = Change::PutTombstone(who, process.chosen);
                if protocol.has(Part::SecondMark) {
                    let lists = [Step::ListRecipes, Step::ListTombstones];
                    let first = lists[usize::from(protocol.has(Part::RecipesLast))];
                    return self.call(who, change, self.to(who, first), protocol);
                }
                next.processes[who].tombstones = one(who);
                self.call(who, change, next.bury(who), protocol)
            }
            Step::ListTombstones => self.list(who, protocol).to(who, Step::ListPacks),
            Step::ListPacks if protocol.has(Part::RecipesLast) => {
                self.list_more(who, protocol).to(who, Step::ListRecipes)
            }
            Step::ListPacks => self.list_more(who, protocol).mark(who, protocol),
            Step::ListRecipes => {
                let mut next = *self;
                next.processes[who].recipes_at = self.recipes;
                next.to(who, Step::ReadRecipes)
            }
            Step::ReadRecipes => {
                let mut next = *self;
                next.processes[who].recipes_at &= self.recipes;
                next.processes[who].needs = self.needs_of(process.recipes_at);
                if !protocol.has(Part::RecipesLast) {
                    return next.to(who, Step::ListTombstones);
                }
                next.mark(who, protocol)
            }
            Step::Copy => self.copy(who, protocol),
            _ => self.remove(who, protocol),
        }
    }

    /// What is needed and not in good packs is copied, or the tombstones are carried out.
    fn mark(mut self, who: usize, protocol: Protocol) -> Vec<Self> {
        let process = self.processes[who];
        let good = self.records_of(process.listed & !process.condemned);
        let missing = process.needs & !available(good);
        let lost = missing & !self.readable();
        self.forget(who);
        self.processes[who].needs = 0;
        if missing == 0 {
            return self.bury(who);
        }
        if !protocol.has(Part::CondemnedForEver) && process.tombstones & one(who) != 0 {
            // The packs are taken off the tombstone again.
            let change = Change::DeleteTombstone(who);
            return self.call(who, change, self.to(who, Step::Ended), protocol);
        }
        if lost != 0 {
            let needs = |slot: &usize| self.needs[*slot] & lost != 0;
            let of = members(process.recipes_at & self.recipes & !self.commits).filter(needs);
            let of = of.fold(0, |all, slot| all | one(slot));
            self.processes[who].recipes_at = of;
            let may_withdraw = protocol.has(Part::LostIsWithdrawn) && of != 0;
            let after = if may_withdraw {
                Step::Withdraw
            } else {
                Step::Ended
            };
            return self.to(who, after);
        }
        self.processes[who].puts = records_for(missing, good);
        // More packs than a model has: as one that others overtake each time.
        let after = if process.packs == 2 {
            Step::Ended
        } else {
            Step::Copy
        };
        self.to(who, after)
    }

    fn copy(&self, who: usize, protocol: Protocol) -> Vec<Self> {
        let mut next = *self;
        let process = &mut next.processes[who];
        let change = Change::PutPack(self.new_pack(who), process.puts);
        process.packs += 1;
        (process.puts, process.recipes_at) = (0, 0);
        process.tombstones = 0;
        self.call(who, change, next.to(who, Step::ListTombstones), protocol)
    }

    /// Begins to carry tombstones out.
    fn bury(mut self, who: usize) -> Vec<Self> {
        let process = &mut self.processes[who];
        (process.needs, process.condemned) = (0, 0);
        (process.puts, process.recipes_at) = (0, 0);
        process.listed = members(process.tombstones)
            .next()
            .map_or(0, |slot| self.names[slot]);
        let after = if process.tombstones == 0 {
            Step::Ended
        } else {
            Step::DeletePacks
        };
        self.to(who, after)
    }

    fn remove(&self, who: usize, protocol: Protocol) -> Vec<Self> {
        let mut next = *self;
        let process = &mut next.processes[who];
        if !protocol.has(Part::ListedTombstones) && !process.is_wrong {
            process.is_wrong = true;
            process.tombstones = self.tombstones;
            return next.bury(who);
        }
        let Some(slot) = members(process.tombstones).next() else {
            return self.to(who, Step::Ended);
        };
        let is_tombstone_first = !protocol.has(Part::TombstoneGoesLast);
        if is_tombstone_first && self.tombstones & one(slot) != 0 {
            return self.call(who, Change::DeleteTombstone(slot), vec![next], protocol);
        }
        if let Some(pack) = members(process.listed).next() {
            process.listed &= !one(pack);
            return self.call(who, Change::DeletePack(pack), vec![next], protocol);
        }
        process.tombstones &= !one(slot);
        self.call(who, Change::DeleteTombstone(slot), next.bury(who), protocol)
    }
}

fn first_step(process: &Process) -> Step {
    match process.role {
        Role::Collector {
            withdraws: true, ..
        } => Step::ListCommits,
        _ => after_withdrawals(process),
    }
}

fn after_withdrawals(process: &Process) -> Step {
    match process.role {
        Role::Collector { expires: true, .. } => Step::ListTrash,
        _ => Step::Choose,
    }
}
