//! Snapshots of an invented machine, and policies in few words.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;

use jiff::Timestamp;
use snapshot_format::{BranchName, SnapshotId};

use crate::retention::{
    Action, Candidate, Caps, Extent, KeepRule, Limit, Period, Reason, RetentionPlan,
    RetentionPolicy, ZoneName, decide,
};

pub(super) const HOUR: u64 = 3_600_000;
pub(super) const DAY: u64 = 24 * HOUR;

/// 1 January 2026, 00:00 UTC.
pub(super) const NEW_YEAR: u64 = 1_767_225_600_000;

pub(super) fn ms(text: &str) -> u64 {
    let time: Timestamp = text.parse().unwrap();
    u64::try_from(time.as_millisecond()).unwrap()
}

pub(super) fn id(seq: u64) -> SnapshotId {
    let mut bytes = [7; 16];
    bytes[..8].copy_from_slice(&seq.to_le_bytes());
    SnapshotId(bytes)
}

/// A snapshot of the branch `main` without a parent.
pub(super) fn taken(seq: u64, created_unix_ms: u64) -> Candidate {
    Candidate {
        id: id(seq),
        branch: BranchName::main(),
        seq,
        created_unix_ms,
        parent: None,
        tags: BTreeSet::new(),
        labels: BTreeMap::new(),
        holds: Vec::new(),
    }
}

pub(super) fn on_branch(mut candidate: Candidate, branch: &str) -> Candidate {
    candidate.branch = BranchName::new(branch).unwrap();
    candidate
}

pub(super) fn child_of(mut candidate: Candidate, parent: u64) -> Candidate {
    candidate.parent = Some(id(parent));
    candidate
}

/// One snapshot at each of these times, in this order.
pub(super) fn at_times(times: &[u64]) -> Vec<Candidate> {
    (1..)
        .zip(times)
        .map(|(seq, time)| taken(seq, *time))
        .collect()
}

pub(super) fn count(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap()
}

pub(super) fn last(number: u32) -> KeepRule {
    KeepRule::Last {
        count: count(number),
    }
}

pub(super) fn every(period: Period, number: u32) -> KeepRule {
    let limit = Limit::Count(count(number));
    KeepRule::Every { period, limit }
}

pub(super) fn within(span: &str) -> KeepRule {
    KeepRule::Within {
        span: span.parse().unwrap(),
    }
}

pub(super) fn policy(rules: &[KeepRule]) -> RetentionPolicy {
    let empty = RetentionPolicy::default();
    rules.iter().cloned().fold(empty, RetentionPolicy::keep)
}

pub(super) fn berlin(rules: &[KeepRule]) -> RetentionPolicy {
    policy(rules).zone(ZoneName::new("Europe/Berlin").unwrap())
}

pub(super) fn capped(rules: &[KeepRule], caps: Caps) -> RetentionPolicy {
    policy(rules).caps(caps)
}

pub(super) fn plan(policy: &RetentionPolicy, candidates: &[Candidate]) -> RetentionPlan {
    weighed(policy, candidates, &[])
}

/// The same where snapshots take space.
pub(super) fn weighed(
    policy: &RetentionPolicy,
    candidates: &[Candidate],
    extents: &[Extent],
) -> RetentionPlan {
    let plan = decide(policy, candidates, extents, u64::MAX).unwrap();
    assert_eq!(plan.decisions.len(), candidates.len());
    for decision in &plan.decisions {
        assert!(!decision.reasons.is_empty(), "{decision:?} has no reason");
    }
    plan
}

/// The sequence numbers of what is kept.
pub(super) fn kept(plan: &RetentionPlan) -> Vec<u64> {
    let kept = plan.decisions.iter();
    kept.filter(|decision| decision.action == Action::Keep)
        .map(|decision| decision.seq)
        .collect()
}

/// What `policy` keeps of snapshots at these times.
pub(super) fn kept_of(policy: &RetentionPolicy, times: &[u64]) -> Vec<u64> {
    kept(&plan(policy, &at_times(times)))
}

/// The reasons for one.
pub(super) fn reasons(plan: &RetentionPlan, seq: u64) -> Vec<Reason> {
    plan.decision(id(seq)).unwrap().reasons.clone()
}

/// Blocks in the directory of `owner`.
pub(super) fn extent(owner: u64, bytes: u64, needed_by: &[u64]) -> Extent {
    Extent {
        owner: id(owner),
        bytes,
        needed_by: needed_by.iter().map(|seq| id(*seq)).collect(),
    }
}
