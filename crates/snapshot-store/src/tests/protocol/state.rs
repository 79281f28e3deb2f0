//! What a store holds, who holds which lock, and where each process is.

/// Snapshots of a model: a base, its child, and one that may come to be.
pub(super) const SNAPSHOTS: usize = 3;

/// A set of data files: two of each snapshot.
pub(super) type Files = u16;

/// Data file `index` of a snapshot.
pub(super) const fn file(snapshot: usize, index: usize) -> Files {
    1 << (2 * snapshot + index)
}

/// Both data files of a snapshot.
pub(super) const fn files_of(snapshot: usize) -> Files {
    file(snapshot, 0) | file(snapshot, 1)
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Place {
    Nowhere,
    Live,
    Trash,
    /// Below a tombstone.
    Gone,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Snapshot {
    pub(super) place: Place,
    /// The data files that each generation of its placement names, of those that are there.
    pub(super) generations: [Option<Files>; 2],
}

/// A process: what it does, how far it is, and what it remembers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Process {
    pub(super) role: Role,
    /// The number of its next step.
    pub(super) step: u8,
    /// The snapshot that a collection is at.
    pub(super) at: usize,
    /// The data files that it has read of.
    pub(super) seen: Files,
    pub(super) has_ended: bool,
}

/// What a process does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Role {
    Reader { of: usize },
    Writer { parent: usize, child: usize },
    Deleter { of: usize },
    Undeleter { of: usize },
    Consolidator { of: usize },
    Collector,
}

/// Locks are held by processes, each by its number.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct State {
    pub(super) snapshots: [Snapshot; SNAPSHOTS],
    /// The data files that are on the disk.
    pub(super) files: Files,
    pub(super) commit: Option<usize>,
    pub(super) gc: Option<usize>,
    pub(super) place: [Option<usize>; SNAPSHOTS],
    pub(super) exclusive: [Option<usize>; SNAPSHOTS],
    /// The processes with a lease, a bit each.
    pub(super) shared: [u8; SNAPSHOTS],
    pub(super) processes: Vec<Process>,
    /// A writer found data missing that was there when it began.
    pub(super) was_missed: bool,
}

impl Snapshot {
    pub(super) const NONE: Self = Self {
        place: Place::Nowhere,
        generations: [None; 2],
    };

    pub(super) fn of(place: Place, names: Files) -> Self {
        Self {
            place,
            generations: [Some(names), None],
        }
    }

    /// What the placement that counts names.
    pub(super) fn counting(&self) -> Files {
        let mut there = self.generations.iter().rev().flatten();
        there.next().copied().unwrap_or(0)
    }

    /// What any placement names.
    pub(super) fn any(&self) -> Files {
        self.generations
            .iter()
            .flatten()
            .fold(0, |all, one| all | one)
    }

    /// Whether it can be found.
    pub(super) fn is_there(&self) -> bool {
        matches!(self.place, Place::Live | Place::Trash)
    }
}

impl State {
    /// `a` and `b`, which needs data of `a`; a third is not there yet.
    pub(super) fn new(a: Place, b: Place, roles: &[Role]) -> Self {
        let process = |role: &Role| Process {
            role: *role,
            step: 0,
            at: 0,
            seen: 0,
            has_ended: false,
        };
        Self {
            snapshots: [
                Snapshot::of(a, file(0, 0)),
                Snapshot::of(b, file(0, 0) | file(1, 0)),
                Snapshot::NONE,
            ],
            files: file(0, 0) | file(1, 0),
            commit: None,
            gc: None,
            place: [None; SNAPSHOTS],
            exclusive: [None; SNAPSHOTS],
            shared: [0; SNAPSHOTS],
            processes: roles.iter().map(process).collect(),
            was_missed: false,
        }
    }

    /// The data files that whoever looks for them finds.
    pub(super) fn found(&self) -> Files {
        let there = (0..SNAPSHOTS).filter(|&of| self.snapshots[of].is_there());
        self.files & there.fold(0, |all, of| all | files_of(of))
    }

    pub(super) fn is_leased(&self, of: usize) -> bool {
        self.shared[of] != 0
    }

    /// Lets go of every lock of a process, and ends it: also what the kernel does for a dead one.
    pub(super) fn end(&mut self, who: usize) {
        let release = |lock: &mut Option<usize>| {
            if *lock == Some(who) {
                *lock = None;
            }
        };
        release(&mut self.commit);
        release(&mut self.gc);
        self.place.iter_mut().for_each(release);
        self.exclusive.iter_mut().for_each(release);
        self.shared
            .iter_mut()
            .for_each(|leases| *leases &= !(1 << who));
        let process = &mut self.processes[who];
        process.has_ended = true;
        // What a dead one remembers makes no difference.
        (process.step, process.at, process.seen) = (0, 0, 0);
    }

    /// What must never be, if it is.
    pub(super) fn violation(&self) -> Option<String> {
        let found = self.found();
        for (of, snapshot) in self.snapshots.iter().enumerate() {
            if snapshot.place == Place::Live && snapshot.counting() & !found != 0 {
                return Some(format!("snapshot {of} in use lacks data: {self:?}"));
            }
        }
        for (who, process) in self.processes.iter().enumerate() {
            let leases = self.shared.iter().any(|leases| leases & (1 << who) != 0);
            if leases && process.seen & !found != 0 {
                return Some(format!(
                    "the lease of process {who} keeps nothing: {self:?}"
                ));
            }
        }
        self.was_missed
            .then(|| format!("data went while a writer was at work: {self:?}"))
    }
}
