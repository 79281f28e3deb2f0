//! Rules, then caps: one decision for each snapshot.

use std::collections::{BTreeMap, BTreeSet};

use snapshot_format::{BranchName, SnapshotId};

use super::caps::Choice;
use super::rules::Group;
use super::space::Space;
use super::zone::instant;
use super::{
    Action, Candidate, Decision, Extent, PolicyError, Reason, RetentionPlan, RetentionPolicy,
};

/// What `policy` makes of the snapshots in use of one machine.
///
/// `extents` are the blocks of the store that any of them needs. `now_unix_ms` bounds the times of
/// snapshots from above and is not used otherwise.
pub fn decide(
    policy: &RetentionPolicy,
    candidates: &[Candidate],
    extents: &[Extent],
    now_unix_ms: u64,
) -> Result<RetentionPlan, PolicyError> {
    policy.check()?;
    let zone = policy.zone.zone()?;
    let now = instant(now_unix_ms);
    let mut sorted = candidates.to_vec();
    sorted.sort_by_key(|candidate| (candidate.seq, candidate.id));
    let mut branches: BTreeMap<&BranchName, Vec<(usize, &Candidate)>> = BTreeMap::new();
    for (at, candidate) in sorted.iter().enumerate() {
        let members = branches.entry(&candidate.branch).or_default();
        members.push((at, candidate));
    }
    let groups: Vec<Group<'_>> = branches
        .into_values()
        .map(|members| Group::new(members.into_iter(), &zone, now))
        .collect();
    let mut kept: Vec<Vec<Reason>> = sorted.iter().map(held).collect();
    for group in &groups {
        group.apply(policy, &mut |at, reason| {
            if let Some(reasons) = kept.get_mut(at) {
                reasons.push(reason);
            }
        });
    }
    let own: BTreeSet<SnapshotId> = sorted.iter().map(|candidate| candidate.id).collect();
    let mut space = Space::new(extents, own);
    let bytes_before = space.bytes();
    for (candidate, reasons) in sorted.iter().zip(&kept) {
        if reasons.is_empty() {
            space.remove(candidate.id);
        }
    }
    let mut choice = Choice {
        candidates: &sorted,
        groups: &groups,
        space,
        kept,
        taken: BTreeMap::new(),
        unmet: Vec::new(),
    };
    choice.apply(&policy.caps);
    let decisions = sorted.iter().enumerate();
    let decisions = decisions.map(|(at, candidate)| decision(&choice, at, candidate));
    Ok(RetentionPlan {
        zone: policy.zone.clone(),
        decisions: decisions.collect(),
        bytes_before,
        bytes_after: choice.space.bytes(),
        unmet: choice.unmet,
    })
}

/// The holds of a candidate, as reasons.
fn held(candidate: &Candidate) -> Vec<Reason> {
    let holds = candidate.holds.iter().cloned();
    holds.map(|hold| Reason::Hold { hold }).collect()
}

fn decision(choice: &Choice<'_>, at: usize, candidate: &Candidate) -> Decision {
    let is_kept = choice.is_kept(at);
    let taken = choice.taken.get(&at).cloned();
    let (reasons, overruled) = match taken {
        Some((reason, overruled)) => (vec![reason], overruled),
        None if is_kept => (choice.kept.get(at).cloned().unwrap_or_default(), Vec::new()),
        None => (vec![Reason::NoRule], Vec::new()),
    };
    let needed_by = choice.space.needed_by(candidate.id).into_iter();
    Decision {
        id: candidate.id,
        branch: candidate.branch.clone(),
        seq: candidate.seq,
        created_unix_ms: candidate.created_unix_ms,
        action: if is_kept {
            Action::Keep
        } else {
            Action::Remove
        },
        reasons,
        overruled,
        hidden_base_of: needed_by.filter(|_| !is_kept).collect(),
    }
}
