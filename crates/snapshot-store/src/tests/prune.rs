//! Policies applied to a store: what they keep, what holds, what a quota refuses.

use std::num::NonZeroU32;

use super::rig::{self, image, kind, named, path, reopen, restored, store, take, verify, vm};
use crate::checked_json;
use crate::retention::{Action, Caps, Hold, KeepRule, Reason, RetentionPolicy};
use crate::{ErrorKind, NewSnapshot, PrunePlan, Selection, Store, VmPolicy};
use snapshot_format::{BranchName, SnapshotRef};
use snapshot_memory::backend::Backend;

const A: [u8; 8] = [1, 0, 3, 0, 5, 6, 7, 8];

fn last(count: u32) -> RetentionPolicy {
    let count = NonZeroU32::new(count).unwrap();
    RetentionPolicy::default().keep(KeepRule::Last { count })
}

fn planned(store: &Store, policy: &RetentionPolicy) -> PrunePlan {
    store.plan_prune(&vm("web"), policy, u64::MAX).unwrap()
}

/// A chain of so many: each is the child of the one before, and differs in a page.
fn chain(store: &Store, len: u8) -> Vec<(SnapshotRef, Vec<u8>)> {
    let mut all: Vec<(SnapshotRef, Vec<u8>)> = Vec::new();
    for number in 0..len {
        let mut fills = A;
        fills[3] = number;
        let new = named("web", &format!("s{number}"));
        let parent = all.last().map(|(reference, _)| *reference);
        let taken = take(store, new.parent(parent), &image(&fills)).unwrap();
        all.push((taken, image(&fills)));
    }
    all
}

fn live(store: &Store) -> Vec<u64> {
    let records = store.list(None).unwrap().snapshots;
    records.iter().map(|record| record.seq).collect()
}

// spec: RET-12
// spec: RET-14
#[test]
fn what_is_removed_stays_as_a_base_of_what_is_kept_and_can_come_back() {
    let (tree, store) = store();
    let all = chain(&store, 5);
    let plan = planned(&store, &last(2));
    assert_eq!(live(&store), [1, 2, 3, 4, 5], "a plan changes nothing");
    let base = plan.plan.decision(all[0].0.id).unwrap();
    assert_eq!(base.action, Action::Remove);
    assert_eq!(base.hidden_base_of, [all[3].0.id, all[4].0.id]);
    let report = store.prune(&plan).unwrap();
    assert_eq!(report.removed, [2, 1, 0].map(|at: usize| all[at].0.id));
    assert!(report.refused.is_empty());
    assert_eq!(live(&store), [4, 5]);
    for (reference, memory) in &all[3..] {
        assert_eq!(restored(&store, *reference).unwrap(), *memory);
    }
    // The rest of a plan that was cut off, and nothing else.
    store.undelete(all[1].0.id).unwrap();
    let again = planned(&reopen(&tree), &last(2));
    assert_eq!(store.prune(&again).unwrap().removed, [all[1].0.id]);
    assert!(store.prune(&again).unwrap().removed.is_empty());
    assert!(verify(&store, Selection::All).ok);
}

// spec: RET-13
#[test]
fn a_hold_that_comes_after_the_plan_wins() {
    let (_, store) = store();
    let all = chain(&store, 4);
    let plan = planned(&store, &last(1));
    store
        .change_metadata(all[0].0.id, |metadata| metadata.protected = true)
        .unwrap();
    let lease = store.lease(all[2].0.id).unwrap();
    let report = store.prune(&plan).unwrap();
    // The second is needed by the third, which is leased.
    assert!(report.removed.is_empty(), "{report:?}");
    let holds: Vec<&Hold> = report.refused.iter().map(|refused| &refused.hold).collect();
    assert!(
        matches!(
            holds[..],
            [Hold::Leased { .. }, Hold::Needed { .. }, Hold::Protected]
        ),
        "{holds:?}"
    );
    drop(lease);
    // The head was deleted: the one before is the head now, whatever the plan says.
    store
        .delete(&store.plan_delete(all[3].0.id).unwrap())
        .unwrap();
    let report = store.prune(&plan).unwrap();
    assert_eq!(report.removed, [all[1].0.id]);
    assert_eq!(report.refused[0].hold, Hold::Current);
    assert_eq!(live(&store), [1, 3]);
}

// spec: RET-05
// spec: RET-15
#[test]
fn branches_keep_their_heads_and_what_cannot_be_read_is_left_alone() {
    let (tree, store) = store();
    let all = chain(&store, 3);
    let side = || {
        let branch = BranchName::new("side").unwrap();
        NewSnapshot::of(vm("web"))
            .branch(branch)
            .parent(Some(all[0].0))
    };
    take(&store, side(), &image(&[9; 8])).unwrap();
    let head = take(&store, side(), &image(&[8; 8])).unwrap();
    let other = take(&store, named("db", "x"), &image(&A)).unwrap();
    let manifest = path(&format!("snapshots/{}/manifest.vms", all[1].0.id));
    tree.tamper(&manifest, |bytes| bytes[200] ^= 1).unwrap();
    let plan = planned(&store, &last(1));
    assert_eq!(plan.damaged.len(), 1);
    store.prune(&plan).unwrap();
    let left = store.list(None).unwrap();
    assert_eq!(left.damaged[0].id, all[1].0.id);
    let ids: Vec<_> = left.snapshots.iter().map(|record| record.id).collect();
    assert_eq!(ids, [other.id, all[2].0.id, head.id]);
}

// spec: RET-05
#[test]
fn what_a_machine_is_on_and_what_a_branch_begins_at_stay() {
    let (_, store) = store();
    let all = chain(&store, 4);
    let name = |name: &str| BranchName::new(name).unwrap();
    // Nobody has taken a snapshot on either; the second is another machine's.
    store
        .create_branch(&vm("web"), &name("side"), all[0].0.id)
        .unwrap();
    store
        .create_branch(&vm("db"), &name("side"), all[1].0.id)
        .unwrap();
    let plan = planned(&store, &last(1));
    let holds = |at: usize| &plan.plan.decision(all[at].0.id).unwrap().reasons;
    let head = Reason::Hold { hold: Hold::Head };
    assert!(holds(0).contains(&head) && holds(1).contains(&head));
    let report = store.prune(&plan).unwrap();
    assert_eq!(report.removed, [all[2].0.id]);
    store.undelete(all[2].0.id).unwrap();
    // A branch that was made, and one that was switched to, after the plan.
    let plan = planned(&store, &last(1));
    store
        .create_branch(&vm("web"), &name("late"), all[2].0.id)
        .unwrap();
    let report = store.prune(&plan).unwrap();
    assert_eq!(report.refused[0].hold, Hold::Head);
    store.switch(&vm("web"), Some(&name("late"))).unwrap();
    let report = store.prune(&plan).unwrap();
    assert_eq!(report.refused[0].hold, Hold::Current);
    let again = planned(&store, &last(1));
    let current = Reason::Hold {
        hold: Hold::Current,
    };
    let kept = again.plan.decision(all[2].0.id).unwrap();
    assert!(kept.reasons.contains(&current));
}

// spec: RET-09
// spec: RET-10
#[test]
fn a_cap_on_bytes_counts_what_deleting_and_collecting_would_free() {
    let (_, store) = store();
    for number in 0..4 {
        let new = named("web", &format!("full{number}"));
        take(&store, new, &image(&[number + 1; 8])).unwrap();
    }
    let whole = planned(&store, &last(9)).plan.bytes_before;
    let used: u64 = {
        let usage = store.usage().unwrap();
        usage.live_bytes
    };
    assert_eq!(whole, used);
    let capped = |bytes| last(9).caps(Caps::default().max_bytes(Some(bytes)));
    let plan = planned(&store, &capped(whole / 2));
    assert!(plan.plan.unmet.is_empty());
    assert_eq!(store.prune(&plan).unwrap().removed.len(), 2);
    assert_eq!(live(&store), [3, 4]);
    store.collect(&crate::GarbageOptions::default()).unwrap();
    let after = store.usage().unwrap();
    assert_eq!(
        (after.live_bytes, after.trash_bytes),
        (plan.plan.bytes_after, 0)
    );
    let plan = planned(&store, &capped(1));
    assert_eq!(plan.plan.unmet.len(), 1);
}

// spec: RET-06
// spec: RET-16
#[test]
fn a_policy_stays_with_its_machine_and_a_damaged_one_is_none_that_counts() {
    let (tree, store) = store();
    let policy = VmPolicy::default().quota_bytes(Some(1 << 30));
    assert_eq!(store.policy(&vm("web")).unwrap(), VmPolicy::default());
    store.set_policy(&vm("Web"), &policy).unwrap();
    store
        .set_policy(&vm("web.policy"), &VmPolicy::default())
        .unwrap();
    assert_eq!(store.policy(&vm("web")).unwrap(), policy);
    let file = path("vms/web.policy");
    let replace = |text: Vec<u8>| tree.tamper(&file, |bytes| *bytes = text).unwrap();
    let mut flipped = rig::read(&tree, &file);
    flipped[90] ^= 1;
    replace(flipped);
    assert_eq!(kind(store.policy(&vm("web"))), Some(ErrorKind::Corrupt));
    // What a later build wrote, what belongs to somebody else, and what nobody knows.
    for (version, name, field, expected) in [
        (4, "web", "quota_bytes", ErrorKind::TooNew),
        (1, "db", "quota_bytes", ErrorKind::Corrupt),
        (1, "web", "quote_bytes", ErrorKind::Corrupt),
    ] {
        let body = serde_json::json!({"version": version, "vm": name, "policy": {field: 1}});
        replace(checked_json::encode(&body).unwrap());
        assert_eq!(kind(store.policy(&vm("web"))), Some(expected), "{body}");
    }
    let empty = VmPolicy::default().retention(Some(RetentionPolicy::default()));
    let refused = store.set_policy(&vm("web"), &empty);
    assert_eq!(kind(refused), Some(ErrorKind::Usage));
}

// spec: RET-17
#[test]
fn a_quota_is_looked_at_before_a_byte_is_written_and_counts_the_trash() {
    let (tree, store) = store();
    let first = take(&store, named("web", "a"), &image(&A)).unwrap();
    let used = store.usage().unwrap().live_bytes;
    let room = snapshot_memory::snapshot_room(image(&A).len() as u64);
    let set = |bytes| {
        let policy = VmPolicy::default().quota_bytes(Some(bytes));
        store.set_policy(&vm("web"), &policy).unwrap();
    };
    set(used + room - 1);
    store.delete(&store.plan_delete(first.id).unwrap()).unwrap();
    let names = |folder: &str| tree.list(&path(folder)).unwrap().len();
    let before = names("snapshots");
    let refused = take(&store, named("web", "b"), &image(&A));
    assert_eq!(kind(refused), Some(ErrorKind::NoSpace));
    assert_eq!(names("snapshots"), before);
    // Others have no part in it.
    take(&store, named("db", "a"), &image(&A)).unwrap();
    set(used + room);
    take(&store, named("web", "b"), &image(&A)).unwrap();
    store.collect(&crate::GarbageOptions::default()).unwrap();
    set(used + room);
    take(&store, named("web", "c"), &image(&A)).unwrap();
}
