//! The steps of those who archive, delete, bring back and read.

use super::state::{
    A, A_FULL, B, B_DELTA, B_FULL, Bits, Change, Role, SLOTS, State, Step, available, members, one,
};
use super::{Part, Protocol};

impl State {
    /// What may come after the next step of a writer, or of one who archives out of the trash.
    pub(super) fn write(&self, who: usize, protocol: Protocol) -> Vec<Self> {
        let process = &self.processes[who];
        match process.step {
            Step::Start => self.begin(who),
            Step::GetRecipe if members(self.recipes & process.recipes_at).next().is_none() => {
                self.to(who, Step::Ended)
            }
            Step::GetRecipe => {
                let mut next = *self;
                next.processes[who].needs = self.needs_of(process.recipes_at);
                next.to(who, Step::GetCommit)
            }
            Step::GetCommit if self.commits & process.recipes_at == 0 => self.to(who, Step::Ended),
            Step::GetCommit => {
                let mut next = *self;
                next.processes[who].is_again = true;
                next.to(who, Step::PutRecipe)
            }
            Step::ListTombstones => {
                let mut after = self.list(who, protocol).to(who, Step::ListPacks);
                let may_stop = matches!(process.role, Role::Writer { may_stop: true, .. });
                if process.is_again && may_stop {
                    after.extend(self.to(who, Step::GiveUp));
                }
                after
            }
            Step::ListPacks => self.list_more(who, protocol).look(who, protocol),
            Step::PutPack => self.put_pack(who, protocol),
            _ => self.publish(who, protocol),
        }
    }

    fn begin(&self, who: usize) -> Vec<Self> {
        let mut next = *self;
        let process = &mut next.processes[who];
        match process.role {
            Role::Undeleter { of } if self.trash & one(of) == 0 => self.to(who, Step::Ended),
            Role::Undeleter { of } => {
                process.recipes_at = one(of);
                next.to(who, Step::GetRecipe)
            }
            Role::Writer { needs, .. } => {
                process.needs = needs;
                next.to(who, Step::ListTombstones)
            }
            _ => self.to(who, Step::Ended),
        }
    }

    /// After both lists: what is not there is put, or everything is.
    fn look(self, who: usize, protocol: Protocol) -> Vec<Self> {
        let mut next = self;
        let process = &mut next.processes[who];
        let good = self.records_of(process.listed & !process.condemned);
        let missing = process.needs & !available(good);
        next.forget(who);
        if missing == 0 {
            return next.found(who, protocol);
        }
        let process = &mut next.processes[who];
        let is_source_lost = missing & !self.readable() != 0;
        if matches!(process.role, Role::Undeleter { .. }) && is_source_lost {
            return next.to(who, Step::GiveUp);
        }
        process.puts = records_for(missing, good);
        if process.packs == 2 {
            // More packs than a model has.
            return next.to(who, Step::GiveUp);
        }
        next.to(who, Step::PutPack)
    }

    /// Every chunk is available.
    fn found(mut self, who: usize, protocol: Protocol) -> Vec<Self> {
        let is_recipe_first = protocol.has(Part::RecipeFirst);
        let process = &mut self.processes[who];
        let is_again = process.is_again;
        process.is_again = true;
        let step = match (is_again, is_recipe_first) {
            (false, false) => Step::ListTombstones,
            (true, true) => {
                self.covered |= self.recipe_of(who);
                Step::PutCommit
            }
            (false, true) | (true, false) => Step::PutRecipe,
        };
        self.to(who, step)
    }

    fn put_pack(&self, who: usize, protocol: Protocol) -> Vec<Self> {
        let mut next = *self;
        let change = Change::PutPack(self.new_pack(who), self.processes[who].puts);
        let process = &mut next.processes[who];
        process.packs += 1;
        process.puts = 0;
        let is_first = !process.is_again;
        process.is_again = true;
        let after = if is_first && protocol.has(Part::RecipeFirst) {
            Step::PutRecipe
        } else {
            Step::ListTombstones
        };
        self.call(who, change, next.to(who, after), protocol)
    }

    fn publish(&self, who: usize, protocol: Protocol) -> Vec<Self> {
        let process = &self.processes[who];
        let own = self.recipe_of(who);
        let slot = members(own).next().unwrap_or(SLOTS - 1);
        let go = |change, step| self.call(who, change, self.to(who, step), protocol);
        match process.step {
            Step::PutRecipe => {
                let is_checked = protocol.has(Part::CheckAgain) && protocol.has(Part::RecipeFirst);
                let after = if is_checked {
                    Step::ListTombstones
                } else {
                    Step::PutCommit
                };
                go(Change::PutRecipe(slot, process.needs), after)
            }
            Step::PutCommit if protocol.has(Part::LookForWithdrawal) => {
                go(Change::PutCommit(slot), Step::GetWithdrawal)
            }
            Step::PutCommit => {
                let mut next = *self;
                next.told |= own;
                self.call(
                    who,
                    Change::PutCommit(slot),
                    next.to(who, Step::Ended),
                    protocol,
                )
            }
            Step::GetWithdrawal if self.withdrawals & own == 0 || process.is_wrong => {
                let mut next = *self;
                next.told |= own;
                next.to(who, Step::Ended)
            }
            Step::GetWithdrawal => self.to(who, Step::TakeBackCommit),
            Step::TakeBackCommit => go(Change::DeleteCommit(slot), Step::TakeBackRecipe),
            Step::TakeBackRecipe => self.begin_again(who, slot, protocol),
            Step::GiveUp => go(Change::PutWithdrawal(slot), Step::GiveUpUnlessDone),
            Step::GiveUpUnlessDone if self.commits & own != 0 => self.to(who, Step::Ended),
            Step::GiveUpUnlessDone => self.to(who, Step::GiveUpRecipe),
            _ => go(Change::DeleteRecipe(slot), Step::Ended),
        }
    }

    /// The recipe was withdrawn: another one is put.
    fn begin_again(&self, who: usize, slot: usize, protocol: Protocol) -> Vec<Self> {
        let mut next = *self;
        let process = &mut next.processes[who];
        if !protocol.has(Part::FreshRecipe) {
            // The withdrawal is known: only another one would count.
            let after = if process.is_wrong {
                Step::Ended
            } else {
                Step::PutRecipe
            };
            process.is_wrong = true;
            return self.call(
                who,
                Change::DeleteRecipe(slot),
                next.to(who, after),
                protocol,
            );
        }
        process.recipes += 1;
        let after = if process.recipes == 2 {
            Step::Ended
        } else {
            Step::PutRecipe
        };
        self.call(
            who,
            Change::DeleteRecipe(slot),
            next.to(who, after),
            protocol,
        )
    }

    pub(super) fn delete(&self, who: usize, of: usize, protocol: Protocol) -> Vec<Self> {
        match self.processes[who].step {
            Step::Start if self.recipes & self.commits & one(of) == 0 => self.to(who, Step::Ended),
            Step::Start => self.to(who, Step::PutTrash),
            _ => self.call(
                who,
                Change::PutTrash(of),
                self.to(who, Step::Ended),
                protocol,
            ),
        }
    }

    pub(super) fn read(&self, who: usize, of: usize, protocol: Protocol) -> Vec<Self> {
        let leased = one(of);
        let is_lease_first = protocol.has(Part::LeaseThenLook);
        let give_up = || {
            let mut next = *self;
            next.leases &= !leased;
            next.to(who, Step::Ended)
        };
        let step = self.processes[who].step;
        // What is looked for, in this order.
        let looks = if protocol.has(Part::TrashLookedForFirst) {
            [Step::GetTrash, Step::GetRecipe, Step::GetCommit]
        } else {
            [Step::GetRecipe, Step::GetCommit, Step::GetTrash]
        };
        let is_wrong = match step {
            Step::GetTrash => self.trash & leased != 0,
            Step::GetRecipe => self.recipes & leased == 0,
            Step::GetCommit => self.commits & leased == 0,
            _ => false,
        };
        if is_wrong {
            return give_up();
        }
        let mut next = *self;
        let number = looks.iter().position(|look| *look == step);
        match number.map_or(0, |number| number + 1) {
            0 if is_lease_first => {
                let after = self.to(who, looks[0]);
                self.call(who, Change::PutLease(of), after, protocol)
            }
            0 => self.to(who, looks[0]),
            3 => {
                // At the latest now.
                next.leases |= leased;
                next.held |= leased;
                next.to(who, Step::Ended)
            }
            number => self.to(who, looks[number]),
        }
    }
}

/// Records of the chunks that are missing; B as a delta where A is there in full, or is put.
pub(super) fn records_for(missing: Bits, good: Bits) -> Bits {
    let a = if missing & A != 0 { A_FULL } else { 0 };
    let has_base = (good | a) & A_FULL != 0;
    match (missing & B != 0, has_base) {
        (false, _) => a,
        (true, true) => a | B_DELTA,
        (true, false) => a | B_FULL,
    }
}
