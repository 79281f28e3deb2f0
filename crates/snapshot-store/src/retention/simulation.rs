//! A policy over a calendar: what would be kept, day by day, of snapshots taken by a schedule.

use std::collections::{BTreeMap, BTreeSet};

use jiff::civil::{Date, DateTime};
use jiff::{Timestamp, Zoned};
use serde::{Serialize, Serializer};
use snapshot_format::{BranchName, SnapshotId};

use super::{Action, Age, Candidate, PolicyError, Reason, RetentionPolicy, ZoneName, decide};

/// When snapshots of an invented machine are taken. Retention is applied after each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Schedule {
    /// The first, by civil time in the zone of the policy.
    pub start: DateTime,
    /// From one to the next.
    pub every: Age,
    /// The first instant that has no snapshot any more, by civil time.
    pub end: DateTime,
}

/// What a policy keeps of a schedule.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct Simulation {
    /// The zone of all times.
    pub zone: ZoneName,
    /// How many snapshots were taken.
    pub taken: u64,
    /// The days on which any were taken, the first one first.
    pub days: Vec<SimulatedDay>,
    /// What is kept at the end, the oldest first.
    pub kept: Vec<SimulatedSnapshot>,
}

/// A civil day of a simulation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct SimulatedDay {
    /// Which.
    #[serde(serialize_with = "as_text")]
    pub date: Date,
    /// How many snapshots were taken on it.
    pub taken: u32,
    /// How many snapshots of all days there were when it was over.
    pub held: u32,
    /// How many of its own are there at the end.
    pub kept: u32,
}

/// A snapshot that is there at the end.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct SimulatedSnapshot {
    /// Its number, from 1.
    pub seq: u64,
    /// When it was taken, by civil time.
    #[serde(serialize_with = "as_text")]
    pub time: DateTime,
    /// Why it is kept.
    pub reasons: Vec<Reason>,
}

impl Schedule {
    /// A snapshot at `start`, and after each `every`, before `end`.
    #[must_use]
    pub fn new(start: DateTime, every: Age, end: DateTime) -> Self {
        Self { start, every, end }
    }
}

/// Takes snapshots by `schedule`, and applies `policy` after each, as a store would.
///
/// Every snapshot is a full one that is neither protected nor in use and takes no space, so that
/// rules, age and depth act, and a cap on bytes does not.
pub fn simulate(policy: &RetentionPolicy, schedule: &Schedule) -> Result<Simulation, PolicyError> {
    policy.check()?;
    let zone = policy.zone.zone()?;
    let at = |time: DateTime| {
        let zoned = time.to_zoned(zone.clone());
        zoned.map_err(|_| PolicyError::NoSuchTime)
    };
    let end = at(schedule.end)?.timestamp();
    let start = at(schedule.start)?;
    // One that is beyond the calendar is after the end.
    let first_too_many = nth(&start, schedule.every, MAX_SNAPSHOTS);
    if first_too_many.is_ok_and(|time| time.timestamp() < end) {
        return Err(PolicyError::TooLongSimulation {
            limit: MAX_SNAPSHOTS,
        });
    }
    let mut machine = Machine::default();
    let mut time = start.clone();
    while time.timestamp() < end && machine.taken < MAX_SNAPSHOTS {
        machine.take(&time);
        machine.prune(policy)?;
        // From the start each time: the 31st of January and a month is the 28th of February, and a
        // month later it is the 31st again.
        time = nth(&start, schedule.every, machine.taken)?;
    }
    Ok(machine.finish(policy))
}

/// The time of the snapshot after `number` others.
fn nth(start: &Zoned, every: Age, number: u64) -> Result<Zoned, PolicyError> {
    let number = i64::try_from(number).map_err(|_| PolicyError::NoSuchTime)?;
    let since = every.span().checked_mul(number);
    since
        .and_then(|since| start.checked_add(since))
        .map_err(|_| PolicyError::NoSuchTime)
}

/// The invented machine.
#[derive(Default)]
struct Machine {
    taken: u64,
    kept: Vec<Candidate>,
    /// Why each is kept, in the order of `kept`.
    reasons: Vec<Vec<Reason>>,
    /// The civil times of those that are kept.
    times: BTreeMap<u64, DateTime>,
    days: Vec<SimulatedDay>,
}

impl Machine {
    fn take(&mut self, time: &Zoned) {
        self.taken += 1;
        let (seq, date) = (self.taken, time.date());
        self.times.insert(seq, time.datetime());
        self.kept.push(Candidate {
            id: invented(seq),
            branch: BranchName::main(),
            seq,
            created_unix_ms: unix_ms(time.timestamp()),
            parent: None,
            tags: BTreeSet::new(),
            labels: BTreeMap::new(),
            holds: Vec::new(),
        });
        match self.days.last_mut().filter(|day| day.date == date) {
            Some(day) => day.taken += 1,
            None => self.days.push(SimulatedDay {
                date,
                taken: 1,
                held: 0,
                kept: 0,
            }),
        }
    }

    fn prune(&mut self, policy: &RetentionPolicy) -> Result<(), PolicyError> {
        let now = self.kept.last().map_or(0, |newest| newest.created_unix_ms);
        let plan = decide(policy, &self.kept, &[], now)?;
        let kept = plan.decisions.into_iter();
        let kept: BTreeMap<u64, Vec<Reason>> = kept
            .filter(|decision| decision.action == Action::Keep)
            .map(|decision| (decision.seq, decision.reasons))
            .collect();
        self.kept.retain(|one| kept.contains_key(&one.seq));
        self.times.retain(|seq, _| kept.contains_key(seq));
        self.reasons = kept.into_values().collect();
        if let Some(day) = self.days.last_mut() {
            day.held = u32::try_from(self.kept.len()).unwrap_or(u32::MAX);
        }
        Ok(())
    }

    fn finish(mut self, policy: &RetentionPolicy) -> Simulation {
        for time in self.times.values() {
            let date = time.date();
            if let Some(day) = self.days.iter_mut().find(|day| day.date == date) {
                day.kept += 1;
            }
        }
        let kept = self.times.into_iter().zip(self.reasons);
        let kept = kept.map(|((seq, time), reasons)| SimulatedSnapshot { seq, time, reasons });
        Simulation {
            zone: policy.zone.clone(),
            taken: self.taken,
            kept: kept.collect(),
            days: self.days,
        }
    }
}

/// An id that belongs to nobody.
fn invented(seq: u64) -> SnapshotId {
    let mut id = [0; 16];
    for (byte, of_seq) in id.iter_mut().rev().zip(seq.to_le_bytes()) {
        *byte = of_seq;
    }
    SnapshotId(id)
}

fn unix_ms(time: Timestamp) -> u64 {
    u64::try_from(time.as_millisecond()).unwrap_or(0)
}

fn as_text<T: std::fmt::Display, S: Serializer>(value: &T, out: S) -> Result<S::Ok, S::Error> {
    out.collect_str(value)
}

/// Snapshots of one simulation.
const MAX_SNAPSHOTS: u64 = 100_000;
