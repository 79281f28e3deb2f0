//! Chains that a policy keeps short.

use std::collections::BTreeSet;

use super::rig::{
    image, kind, named, path, read, reopen, restored, store, take, verify, vm,
    with_each_call_failing,
};
use crate::checked_json;
use crate::{
    ChainAction, ChainReason, ConsolidationOutcome, ConsolidationPlan, ConsolidationPolicy,
    ErrorKind, GarbageOptions, Selection, Store, VmPolicy,
};
use snapshot_format::{DataLayout, PageRange, SnapshotRef};
use snapshot_memory::{CaptureControl, RelayoutOptions};

type Taken = (SnapshotRef, Vec<u8>);

fn most(files: u16) -> ConsolidationPolicy {
    ConsolidationPolicy::default().max_files(Some(files))
}

fn wasting(percent: u8) -> ConsolidationPolicy {
    ConsolidationPolicy::default().max_wasted_percent(Some(percent))
}

fn set(store: &Store, policy: ConsolidationPolicy) {
    let policy = VmPolicy::default().consolidation(Some(policy));
    store.set_policy(&vm("web"), &policy).unwrap();
}

/// One more snapshot, which differs from the one before in a page.
fn grow(store: &Store, all: &mut Vec<Taken>) -> SnapshotRef {
    let number = all.len();
    let mut fills = [1, 2, 3, 4, 5, 6, 7, 8];
    for at in 0..=number {
        fills[at % 8] = 20 + u8::try_from(at).unwrap();
    }
    let parent = all.last().map(|(reference, _)| *reference);
    let new = named("web", &format!("s{number}")).parent(parent);
    let taken = take(store, new, &image(&fills)).unwrap();
    all.push((taken, image(&fills)));
    taken
}

fn chain(store: &Store, len: usize) -> Vec<Taken> {
    let mut all = Vec::new();
    for _ in 0..len {
        grow(store, &mut all);
    }
    all
}

fn due(store: &Store, id: SnapshotRef) -> Option<usize> {
    let report = store.consolidate_due(id.id, &CaptureControl::default());
    report.unwrap().map(|report| report.files_after)
}

fn plan(store: &Store, policy: &ConsolidationPolicy, removed: &[Taken]) -> ConsolidationPlan {
    let removed: BTreeSet<_> = removed.iter().map(|(taken, _)| taken.id).collect();
    store
        .plan_consolidation(&vm("web"), policy, &removed)
        .unwrap()
}

fn apply(store: &Store, plan: &ConsolidationPlan) -> ConsolidationOutcome {
    let done = store.consolidate_planned(plan, &CaptureControl::default());
    done.unwrap()
}

fn files(store: &Store, of: SnapshotRef) -> usize {
    store.detail(of.id).unwrap().dependencies.len()
}

fn check(store: &Store, all: &[Taken]) {
    for (reference, memory) in all {
        assert!(restored(store, *reference).unwrap() == *memory);
    }
    let report = verify(store, Selection::All);
    assert!(report.ok, "{:?}", report.errors);
}

// spec: CON-12
// spec: RET-16
#[test]
fn a_policy_on_chains_is_kept_and_older_builds_are_told_of_it() {
    let (tree, store) = store();
    let file = path("vms/web.policy");
    let version = || {
        let body: serde_json::Value = checked_json::decode(&read(&tree, &file), 9).unwrap();
        body["version"].as_u64()
    };
    store
        .set_policy(&vm("web"), &VmPolicy::default().quota_bytes(Some(9)))
        .unwrap();
    assert_eq!(version(), Some(1));
    let policy = wasting(30).max_files(Some(7)).max_runs(Some(64));
    set(&store, policy);
    assert_eq!(version(), Some(2));
    let read = reopen(&tree).policy(&vm("web")).unwrap();
    assert_eq!(read.consolidation, Some(policy));
    let empty = VmPolicy::default().consolidation(Some(ConsolidationPolicy::default()));
    let refused = store.set_policy(&vm("web"), &empty);
    assert_eq!(kind(refused), Some(ErrorKind::Usage));
    // In a file of the first version nobody wrote such a part.
    let body = r#"{"version":1,"vm":"web","policy":{"consolidation":{"max_files":3}}}"#;
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    let bytes = checked_json::encode(&body).unwrap();
    tree.tamper(&file, |old| old.clone_from(&bytes)).unwrap();
    assert_eq!(kind(store.policy(&vm("web"))), Some(ErrorKind::Corrupt));
}

// spec: CON-13
// spec: CON-15
#[test]
fn a_chain_that_grows_is_cut_when_it_is_too_long_and_only_then() {
    let (tree, store) = store();
    let mut all = Vec::new();
    let first = grow(&store, &mut all);
    assert_eq!(due(&store, first), None, "there is no policy");
    set(&store, most(6));
    let mut cut = Vec::new();
    for number in 1..18 {
        let taken = grow(&store, &mut all);
        if let Some(left) = due(&store, taken) {
            assert_eq!(left, 3);
            cut.push(number);
        }
        assert!(files(&store, taken) <= 6);
        // Once it was done there is nothing to do.
        assert_eq!(due(&store, taken), None);
    }
    assert_eq!(cut, [6, 10, 14]);
    check(&reopen(&tree), &all);
}

// spec: CON-13
// spec: CON-14
#[test]
fn hidden_bases_are_wasted_and_files_of_snapshots_in_use_are_not() {
    let (tree, store) = store();
    let all = chain(&store, 6);
    let (gone, left) = all.split_at(5);
    let policy = wasting(20);
    let before = plan(&store, &policy, &[]);
    assert!(
        before.decisions.iter().all(|one| {
            one.action == ChainAction::Leave && one.reasons == [ChainReason::Within]
        })
    );
    // What is about to be deleted counts as deleted.
    let planned = plan(&store, &policy, gone);
    assert_eq!(planned.decisions.len(), 1);
    for (taken, _) in gone.iter().rev() {
        store.delete(&store.plan_delete(taken.id).unwrap()).unwrap();
    }
    assert_eq!(plan(&store, &policy, &[]), planned);
    let decision = &planned.decisions[0];
    // The first stores eight pages, of which the last one uses three.
    let reason = ChainReason::TooWasteful {
        wasted_pages: 5,
        stored_pages: 13,
        max_wasted_percent: 20,
    };
    assert_eq!(decision.reasons, [reason]);
    assert_eq!((decision.files, decision.files_after), (6, 1));
    assert_eq!(plan(&store, &wasting(50), &[]).due().count(), 0);
    let done = apply(&store, &planned);
    assert_eq!(done.consolidated.len(), 1);
    assert_eq!(done.consolidated[0].copied_pages, decision.copied_pages);
    store.collect(&GarbageOptions::default()).unwrap();
    assert_eq!(store.usage().unwrap().trash_bytes, 0);
    check(&reopen(&tree), left);
    assert_eq!(plan(&store, &policy, &[]).due().count(), 0);
}

// spec: CON-14
#[test]
fn the_protected_stay_and_readers_go_on() {
    let (_, store) = store();
    let all = chain(&store, 5);
    let (a, b) = (all[3].0, all[4].0);
    let protect = |protected| {
        store
            .change_metadata(a.id, |metadata| metadata.protected = protected)
            .unwrap();
    };
    let planned = plan(&store, &most(2), &[]);
    assert_eq!(planned.due().count(), 3);
    protect(true);
    let left = &plan(&store, &most(2), &[]).decisions[3];
    assert_eq!(left.action, ChainAction::Leave);
    assert_eq!(left.files_after, 4);
    let reasons = [
        ChainReason::TooManyFiles { max_files: 2 },
        ChainReason::Protected,
    ];
    assert_eq!(left.reasons, reasons);
    // A reader of the placement from before.
    let reader = store.image(b.id).unwrap();
    let done = apply(&store, &planned);
    let ids: Vec<_> = done.consolidated.iter().map(|one| one.id).collect();
    assert_eq!(ids, [all[2].0.id, b.id]);
    assert_eq!((files(&store, a), files(&store, b)), (4, 1));
    for (gone, _) in &all[..3] {
        let refused = store
            .plan_delete(gone.id)
            .and_then(|plan| store.delete(&plan));
        assert_eq!(kind(refused), Some(ErrorKind::Refused));
    }
    let mut page = vec![0; 4096];
    let first = PageRange::new(0, 1);
    reader.image().read_pages(first, &mut page).unwrap();
    assert_eq!(page, all[4].1[..4096]);
    drop(reader);
    check(&store, &all);
    protect(false);
    assert_eq!(plan(&store, &most(2), &[]).due().count(), 1);
}

// spec: CON-13
#[test]
fn a_merged_file_lies_as_the_pages_of_the_snapshot_do() {
    let (_, store) = store();
    let all = chain(&store, 4);
    set(&store, most(3));
    for (layout, taken) in [
        (DataLayout::Packed, all[3].0),
        (DataLayout::Sparse, all[3].0),
    ] {
        store
            .relayout(taken.id, &RelayoutOptions::of(layout))
            .unwrap();
        let mut again = all.clone();
        let child = grow(&store, &mut again);
        store
            .relayout(child.id, &RelayoutOptions::of(layout))
            .unwrap();
        assert_eq!(due(&store, child), Some(1));
        let relaid = store.relayout(child.id, &RelayoutOptions::of(layout));
        assert!(!relaid.unwrap().changed);
        store.delete(&store.plan_delete(child.id).unwrap()).unwrap();
    }
}

// spec: CON-15
#[test]
fn what_fails_for_one_is_told_and_the_others_go_on() {
    let (tree, store) = store();
    let all = chain(&store, 5);
    let planned = plan(&store, &most(2), &[]);
    // The second of three has lost what it needs.
    let file = path(&format!("snapshots/{}/memory.map", all[3].0.id));
    let sound = read(&tree, &file);
    tree.tamper(&file, |bytes| bytes[300] ^= 1).unwrap();
    let done = apply(&store, &planned);
    let failed: Vec<_> = done.failed.iter().map(|one| (one.id, one.kind)).collect();
    let mut expected = vec![(all[3].0.id, ErrorKind::Corrupt)];
    expected.push((all[4].0.id, ErrorKind::Corrupt));
    assert_eq!(failed, expected);
    assert_eq!(done.consolidated.len(), 1);
    let unread = plan(&store, &most(2), &[]);
    assert!(matches!(
        unread.decisions[4].reasons[..],
        [ChainReason::Unreadable { .. }]
    ));
    tree.tamper(&file, |bytes| bytes.clone_from(&sound))
        .unwrap();
    let done = apply(&reopen(&tree), &planned);
    assert_eq!((done.consolidated.len(), done.failed.len()), (2, 0));
    check(&reopen(&tree), &all);
}

// spec: CON-15
#[test]
fn whatever_call_fails_the_chain_is_there() {
    let (tree, store) = store();
    let all = chain(&store, 4);
    set(&store, most(2));
    let work = |store: &Store| store.consolidate_due(all[3].0.id, &CaptureControl::default());
    with_each_call_failing(&tree, work, |done, left, what| {
        let store = reopen(left);
        for (reference, memory) in &all {
            assert!(restored(&store, *reference).unwrap() == *memory, "{what}");
        }
        if done.is_err() {
            work(&store).unwrap();
        }
        assert!(files(&store, all[3].0) <= 2, "{what}");
    });
}
