//! Deciding again, after all or a part was done, changes nothing.

use super::rig::{HOUR, NEW_YEAR, capped, child_of, count, kept, last, on_branch, plan, taken};
use crate::retention::{
    Action, Candidate, Caps, Hold, KeepRule, Limit, Period, RetentionPolicy, ZoneName,
};
use proptest::prelude::*;
use snapshot_format::SnapshotId;

/// Snapshots on two branches, at times that mostly grow, some of them held.
fn machine() -> impl Strategy<Value = Vec<Candidate>> {
    let one = (0..40_u64, any::<bool>(), 0..12_u8, 0..6_u64);
    prop::collection::vec(one, 1..60).prop_map(|all| {
        let mut time = NEW_YEAR;
        (1..)
            .zip(all)
            .map(|(seq, (hours, is_side, hold, back))| {
                // Once in a while the clock goes back.
                time =
                    (time + hours * HOUR).saturating_sub(if hours == 7 { 200 * HOUR } else { 0 });
                let mut candidate = taken(seq, time);
                if back > 0 && seq > back {
                    candidate = child_of(candidate, seq - back);
                }
                if hold == 0 {
                    candidate.holds.push(Hold::Protected);
                }
                if is_side {
                    candidate = on_branch(candidate, "side");
                }
                candidate
            })
            .collect()
    })
}

fn rule() -> impl Strategy<Value = KeepRule> {
    let period = prop::sample::select(Period::ALL.to_vec());
    let span = || prop::sample::select(vec!["1h", "30h", "3d", "2w", "1mo"]);
    prop_oneof![
        (1..6_u32).prop_map(last),
        (period.clone(), 1..6_u32).prop_map(|(period, number)| KeepRule::Every {
            period,
            limit: Limit::Count(count(number)),
        }),
        (period, span()).prop_map(|(period, span)| KeepRule::Every {
            period,
            limit: Limit::Within(span.parse().unwrap()),
        }),
        span().prop_map(|span| KeepRule::Within {
            span: span.parse().unwrap(),
        }),
    ]
}

fn caps() -> impl Strategy<Value = Caps> {
    let age = prop::option::of(prop::sample::select(vec!["2d", "3w", "1y"]));
    let depth = prop::option::of(1..5_u32);
    (age, depth).prop_map(|(age, depth)| {
        Caps::default()
            .max_age(age.map(|age| age.parse().unwrap()))
            .max_depth(depth.map(count))
    })
}

fn any_policy() -> impl Strategy<Value = RetentionPolicy> {
    let zone = prop::sample::select(vec!["UTC", "Europe/Berlin", "Australia/Lord_Howe"]);
    (prop::collection::vec(rule(), 1..4), caps(), zone)
        .prop_map(|(rules, caps, zone)| capped(&rules, caps).zone(ZoneName::new(zone).unwrap()))
}

/// The machine once these were deleted: who descends from one of them descends from what that did.
fn without(machine: &[Candidate], deleted: &[SnapshotId]) -> Vec<Candidate> {
    let mut left = machine.to_vec();
    for gone in deleted {
        let above = left.iter().find(|one| one.id == *gone).unwrap().parent;
        left.retain(|one| one.id != *gone);
        for one in left.iter_mut().filter(|one| one.parent == Some(*gone)) {
            one.parent = above;
        }
    }
    left
}

proptest! {
    // spec: RET-12
    #[test]
    fn a_part_done_leaves_the_rest_to_be_done(
        machine in machine(),
        policy in any_policy(),
        done in any::<prop::sample::Index>(),
    ) {
        let whole = plan(&policy, &machine);
        let removals: Vec<SnapshotId> = whole.removals().map(|one| one.id).collect();
        let done = &removals[..done.index(removals.len() + 1)];
        let left = without(&machine, done);
        prop_assert_eq!(kept(&plan(&policy, &left)), kept(&whole));
    }

    // spec: RET-05
    // spec: RET-08
    #[test]
    fn heads_and_holds_stay_and_a_plan_is_one_decision_each(
        machine in machine(),
        policy in any_policy(),
    ) {
        let found = plan(&policy, &machine);
        for one in &machine {
            let is_head = machine
                .iter()
                .filter(|other| other.branch == one.branch)
                .all(|other| other.seq <= one.seq);
            let decision = found.decision(one.id).unwrap();
            if is_head || !one.holds.is_empty() {
                prop_assert_eq!(decision.action, Action::Keep);
            }
        }
        prop_assert!(found.decisions.is_sorted_by_key(|decision| decision.seq));
    }

    // spec: RET-01
    #[test]
    fn a_rule_more_never_keeps_less(
        machine in machine(),
        policy in any_policy(),
        more in rule(),
    ) {
        let policy = policy.caps(Caps::default());
        let before = kept(&plan(&policy, &machine));
        let after = kept(&plan(&policy.keep(more), &machine));
        prop_assert!(before.iter().all(|seq| after.contains(seq)));
    }
}
