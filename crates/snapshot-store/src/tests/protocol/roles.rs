//! The steps of each process, between which every other one may run, and before which each may die.

use super::state::{Files, Place, Role, SNAPSHOTS, Snapshot, State, file, files_of};

/// A part of the protocol that may be left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Part {
    /// A collection marks again under the commit lock.
    SecondMark,
    /// Superseded placements are removed only where nobody has a lease.
    LeaseCheck,
    /// A mark reads placements that count no more.
    SupersededInMark,
    /// A mark reads placements of deleted snapshots.
    TrashInMark,
    /// The name goes before the files.
    Tombstone,
    /// A writer leases its parent, and looks its data up again at the commit.
    ParentKept,
}

/// What processes do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Protocol {
    pub(super) lacks: Option<Part>,
}

impl Part {
    pub(super) const ALL: [Self; 6] = [
        Self::SecondMark,
        Self::LeaseCheck,
        Self::SupersededInMark,
        Self::TrashInMark,
        Self::Tombstone,
        Self::ParentKept,
    ];
}

impl Protocol {
    fn has(self, part: Part) -> bool {
        self.lacks != Some(part)
    }
}

impl State {
    /// The state after the next step of a process; `None` where it has ended or waits for a lock.
    pub(super) fn step(&self, who: usize, protocol: Protocol) -> Option<Self> {
        if self.processes[who].has_ended {
            return None;
        }
        let mut next = self.clone();
        let went = match self.processes[who].role {
            Role::Reader { of } => next.read(who, of),
            Role::Writer { parent, child } => next.write(who, parent, child, protocol),
            Role::Deleter { of } => next.delete(who, of),
            Role::Undeleter { of } => next.undelete(who, of),
            Role::Consolidator { of } => next.consolidate(who, of),
            Role::Collector => next.collect(who, protocol),
        };
        went.then_some(next)
    }

    fn go_on(&mut self, who: usize) -> bool {
        self.processes[who].step += 1;
        true
    }

    fn finish(&mut self, who: usize) -> bool {
        self.end(who);
        true
    }

    fn take_commit(&mut self, who: usize) -> bool {
        if self.commit.is_some() {
            return false;
        }
        self.commit = Some(who);
        self.go_on(who)
    }

    fn lease(&mut self, who: usize, of: usize) -> bool {
        if self.exclusive[of].is_some() {
            return false;
        }
        self.shared[of] |= 1 << who;
        self.go_on(who)
    }

    /// Takes a lock alone, at once or not at all.
    fn try_alone(&mut self, who: usize, of: usize) -> bool {
        let is_free = self.exclusive[of].is_none() && !self.is_leased(of);
        if is_free {
            self.exclusive[of] = Some(who);
        }
        is_free
    }

    fn read_placement(&mut self, who: usize, of: usize) -> bool {
        if self.snapshots[of].place != Place::Live {
            return self.finish(who);
        }
        self.processes[who].seen = self.snapshots[of].counting();
        self.go_on(who)
    }

    fn read(&mut self, who: usize, of: usize) -> bool {
        match self.processes[who].step {
            0 => self.lease(who, of),
            1 => self.read_placement(who, of),
            _ => self.finish(who),
        }
    }

    fn write(&mut self, who: usize, parent: usize, child: usize, protocol: Protocol) -> bool {
        match self.processes[who].step {
            0 if protocol.has(Part::ParentKept) => self.lease(who, parent),
            0 => self.go_on(who),
            1 => self.read_placement(who, parent),
            2 => self.take_commit(who),
            _ => {
                let seen = self.processes[who].seen;
                if protocol.has(Part::ParentKept) && seen & !self.found() != 0 {
                    self.was_missed = true;
                } else {
                    self.snapshots[child] = Snapshot::of(Place::Live, seen | file(child, 0));
                    self.files |= file(child, 0);
                }
                self.finish(who)
            }
        }
    }

    fn delete(&mut self, who: usize, of: usize) -> bool {
        match self.processes[who].step {
            0 => self.take_commit(who),
            1 => {
                if self.snapshots[of].place == Place::Live && self.try_alone(who, of) {
                    self.go_on(who)
                } else {
                    self.finish(who)
                }
            }
            2 => {
                let needs = |other: &usize| {
                    let snapshot = &self.snapshots[*other];
                    *other != of && snapshot.is_there() && snapshot.any() & files_of(of) != 0
                };
                let mut needing = (0..SNAPSHOTS).filter(needs);
                if needing.any(|other| self.is_leased(other)) {
                    return self.finish(who);
                }
                self.go_on(who)
            }
            _ => {
                self.snapshots[of].place = Place::Trash;
                self.finish(who)
            }
        }
    }

    fn undelete(&mut self, who: usize, of: usize) -> bool {
        if self.processes[who].step == 0 {
            return self.take_commit(who);
        }
        if self.snapshots[of].place == Place::Trash {
            self.snapshots[of].place = Place::Live;
        }
        self.finish(who)
    }

    /// A second placement, which names a data file of its own alone.
    fn consolidate(&mut self, who: usize, of: usize) -> bool {
        match self.processes[who].step {
            0 if self.place[of].is_some() => false,
            0 => {
                self.place[of] = Some(who);
                self.go_on(who)
            }
            1 => self.lease(who, of),
            2 if self.snapshots[of].generations[1].is_some() => self.finish(who),
            2 => self.read_placement(who, of),
            3 => self.take_commit(who),
            _ => {
                let snapshot = &mut self.snapshots[of];
                let is_same = snapshot.counting() == self.processes[who].seen;
                if snapshot.place == Place::Live && is_same {
                    snapshot.generations[1] = Some(file(of, 1));
                    self.files |= file(of, 1);
                }
                self.finish(who)
            }
        }
    }

    fn collect(&mut self, who: usize, protocol: Protocol) -> bool {
        let at = self.processes[who].at;
        match self.processes[who].step {
            0 if self.gc.is_some() => self.finish(who),
            0 => {
                self.gc = Some(who);
                self.go_on(who)
            }
            // Tombstones.
            1 if at < SNAPSHOTS => {
                if self.snapshots[at].place == Place::Gone {
                    self.files &= !files_of(at);
                }
                self.processes[who].at += 1;
                true
            }
            // Superseded placements, from the first snapshot on.
            1 => self.go_to(who, 2, 0),
            2 if at == SNAPSHOTS => self.go_to(who, 7, 0),
            2..7 => self.trim(who, at, protocol),
            // The mark, then each victim.
            7 => {
                self.processes[who].seen = self.named(protocol);
                self.go_to(who, 8, 0)
            }
            8 if at == SNAPSHOTS => self.finish(who),
            _ => self.remove(who, at, protocol),
        }
    }

    fn go_to(&mut self, who: usize, step: u8, at: usize) -> bool {
        let process = &mut self.processes[who];
        (process.step, process.at) = (step, at);
        true
    }

    /// Gives up what was locked for the snapshot that a collection is at.
    fn let_go(&mut self, who: usize, at: usize) {
        self.commit = self.commit.filter(|holder| *holder != who);
        self.place[at] = self.place[at].filter(|holder| *holder != who);
        self.exclusive[at] = self.exclusive[at].filter(|holder| *holder != who);
    }

    fn trim(&mut self, who: usize, at: usize, protocol: Protocol) -> bool {
        let is_superseded = self.snapshots[at].generations.iter().all(Option::is_some);
        let is_there = self.snapshots[at].is_there();
        match self.processes[who].step {
            2 if !is_there || !is_superseded => self.go_to(who, 2, at + 1),
            2 => self.go_on(who),
            3 if self.place[at].is_some() => self.go_to(who, 2, at + 1),
            3 => {
                self.place[at] = Some(who);
                self.go_on(who)
            }
            4 => self.take_commit(who),
            5 => {
                let is_alone = !protocol.has(Part::LeaseCheck) || self.try_alone(who, at);
                if is_there && is_superseded && is_alone {
                    return self.go_on(who);
                }
                self.let_go(who, at);
                self.go_to(who, 2, at + 1)
            }
            _ => {
                self.snapshots[at].generations[0] = None;
                self.let_go(who, at);
                self.go_to(who, 2, at + 1)
            }
        }
    }

    /// The data files that snapshots name which are not their own.
    fn named(&self, protocol: Protocol) -> Files {
        let counts = |snapshot: &Snapshot| {
            let is_asked = protocol.has(Part::TrashInMark) || snapshot.place == Place::Live;
            snapshot.is_there() && is_asked
        };
        let named = self.snapshots.iter().enumerate();
        let named = named.filter(|(_, snapshot)| counts(snapshot));
        named.fold(0, |all, (of, snapshot)| {
            let names = if protocol.has(Part::SupersededInMark) {
                snapshot.any()
            } else {
                snapshot.counting()
            };
            all | (names & !files_of(of))
        })
    }

    fn remove(&mut self, who: usize, at: usize, protocol: Protocol) -> bool {
        let is_victim = |state: &Self, named: Files| {
            state.snapshots[at].place == Place::Trash && named & files_of(at) == 0
        };
        match self.processes[who].step {
            8 if !is_victim(self, self.processes[who].seen) => self.go_to(who, 8, at + 1),
            8 => self.go_on(who),
            9 => self.take_commit(who),
            10 => {
                if self.try_alone(who, at) {
                    return self.go_on(who);
                }
                self.let_go(who, at);
                self.go_to(who, 8, at + 1)
            }
            11 => {
                let named = if protocol.has(Part::SecondMark) {
                    self.named(protocol)
                } else {
                    self.processes[who].seen
                };
                if !is_victim(self, named) {
                    self.let_go(who, at);
                    return self.go_to(who, 8, at + 1);
                }
                if protocol.has(Part::Tombstone) {
                    self.snapshots[at].place = Place::Gone;
                }
                self.commit = None;
                self.go_on(who)
            }
            _ => {
                self.files &= !files_of(at);
                if !protocol.has(Part::Tombstone) && self.snapshots[at].place == Place::Trash {
                    self.snapshots[at].place = Place::Gone;
                }
                self.let_go(who, at);
                // What this one named may be free now.
                self.go_to(who, 7, 0)
            }
        }
    }
}
