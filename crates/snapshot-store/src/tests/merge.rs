//! A branch put onto another: one side gives everything.

use std::sync::Arc;
use std::time::Duration;

use super::rig::{A, image, kind, named, names, one, restored, staged, take, verify, vm};
use crate::{ErrorKind, Giver, MERGED, Merge, NewSnapshot, OpenOptions, Selection, Store};
use snapshot_format::{BranchName, LabelKey, SectionKind, SnapshotRef};

const ON_FIX: [u8; 8] = [1, 9, 3, 0, 5, 6, 7, 8];
const ON_MAIN: [u8; 8] = [1, 0, 3, 7, 5, 0, 7, 8];

fn fix() -> BranchName {
    BranchName::new("fix").unwrap()
}

/// Two branches that part at `web/a`.
fn parted(store: &Store, a: SnapshotRef) -> [SnapshotRef; 2] {
    let on_fix = named("web", "fixed").branch(fix()).parent(Some(a));
    let on_fix = on_fix.config(b"of fix".to_vec());
    let main = named("web", "main").parent(Some(a));
    [(on_fix, ON_FIX), (main, ON_MAIN)].map(|(new, fill)| take(store, new, &image(&fill)).unwrap())
}

// spec: TRE-10
// spec: TRE-11
#[test]
fn all_of_a_merge_is_of_one_side_and_the_other_is_named() {
    for giver in [Giver::Source, Giver::Target] {
        let (_, store, a) = one();
        let [on_fix, on_main] = parted(&store, a);
        let merge = Merge::of(vm("web"), on_fix.id, BranchName::main()).giver(giver);
        let report = store.merge(&merge).unwrap();
        let (from, other, fill) = match giver {
            Giver::Source => (on_fix, on_main, ON_FIX),
            Giver::Target => (on_main, on_fix, ON_MAIN),
        };
        assert_eq!((report.giver, report.merged), (from.id, other.id));
        assert_eq!(report.common_ancestor, Some(a.id));

        let merged = store.snapshot(report.id).unwrap();
        assert_eq!((merged.parent, merged.seq), (Some(from), 4));
        assert_eq!(merged.branch, BranchName::main());
        let label = merged.metadata.labels.get(&LabelKey::new(MERGED).unwrap());
        assert_eq!(label.unwrap().as_str(), other.id.to_string());
        assert!(restored(&store, merged.reference()).unwrap() == image(&fill));
        let config = |of| store.manifest(of).unwrap().vm_config;
        assert_eq!(config(report.id), config(from.id));
        let mut state = store.state(report.id).unwrap();
        let section = state.take_payload(SectionKind::CALLER, 0).unwrap();
        assert_eq!(section.bytes, [1, 2, 3]);
        state.finish().unwrap();

        let image = store.image(report.id).unwrap();
        let own = image
            .image()
            .files()
            .last()
            .unwrap()
            .unwrap()
            .page_counts()
            .unwrap();
        assert_eq!(
            (own.present, own.zero),
            (0, 0),
            "it stores pages of its own"
        );
        assert!(verify(&store, Selection::All).ok);
        // What was merged may go: the new snapshot stays whole.
        for gone in [a, on_fix, on_main] {
            drop(store.delete(&store.plan_delete(gone.id).unwrap()));
        }
        assert!(restored(&store, merged.reference()).unwrap() == super::rig::image(&fill));
    }
}

// spec: TRE-12
#[test]
fn what_is_in_a_branch_is_not_merged_onto_it_again() {
    let (_, store, a) = one();
    let [on_fix, on_main] = parted(&store, a);
    let merge = |source: SnapshotRef, target: BranchName| {
        store.merge(&Merge::of(vm("web"), source.id, target))
    };
    for source in [a, on_main] {
        let again = merge(source, BranchName::main());
        assert_eq!(kind(again), Some(ErrorKind::Exists));
    }
    let nowhere = merge(on_fix, BranchName::new("nowhere").unwrap());
    assert_eq!(kind(nowhere), Some(ErrorKind::NotFound));
    let count = store.list(None).unwrap().snapshots.len();
    assert_eq!(count, 3, "a refused merge left a snapshot");
    // A branch whose start is gone has no head to merge onto.
    let idle = BranchName::new("idle").unwrap();
    store.create_branch(&vm("web"), &idle, on_main.id).unwrap();
    store
        .delete(&store.plan_delete(on_main.id).unwrap())
        .unwrap();
    assert_eq!(kind(merge(on_fix, idle)), Some(ErrorKind::NotFound));

    let report = merge(on_fix, BranchName::main()).unwrap();
    let again = merge(on_fix, BranchName::main());
    assert_eq!(kind(again), Some(ErrorKind::Exists), "{report:?}");
}

// spec: TRE-12
#[test]
fn a_machine_is_merged_onto_a_clone_of_it() {
    let (_, store, a) = one();
    let clone = NewSnapshot::of(vm("clone")).parent(Some(a));
    let clone = take(&store, clone, &image(&ON_MAIN)).unwrap();
    let ours = take(&store, named("web", "b").parent(Some(a)), &image(&ON_FIX)).unwrap();
    let merge = Merge::of(vm("clone"), ours.id, BranchName::main());
    let report = store.merge(&merge).unwrap();
    assert_eq!(report.common_ancestor, Some(a.id));
    assert_eq!(report.merged, clone.id);
    let merged = store.snapshot(report.id).unwrap();
    assert_eq!((merged.vm.as_str(), merged.seq), ("clone", 2));
    assert!(restored(&store, merged.reference()).unwrap() == image(&ON_FIX));
    assert!(restored(&store, a).unwrap() == image(&A));
}

// spec: TRE-12
#[test]
fn a_branch_that_moves_while_it_is_merged_onto_is_told() {
    let (tree, store, a) = one();
    let [on_fix, on_main] = parted(&store, a);
    let options = OpenOptions::default().lock_wait(Duration::from_mins(1));
    let patient = Store::open(Arc::new(tree.clone()), &options).unwrap();
    let next = named("web", "next").parent(Some(on_main));
    let stage = staged(&store, next, &image(&A)).unwrap();
    // It has the lock of the machine from here on: whoever merges gets no further than to it.
    let sealed = stage.seal().unwrap();
    let stages = || {
        let names = names(&tree, "snapshots").into_iter();
        names.filter(|name| name.starts_with(".stage-")).count()
    };
    let merge = Merge::of(vm("web"), on_fix.id, BranchName::main());
    let outcome = std::thread::scope(|scope| {
        let merging = scope.spawn(|| patient.merge(&merge));
        // Once it has a stage, it knows the head as it was.
        while stages() < 2 && !merging.is_finished() {
            std::thread::yield_now();
        }
        sealed.publish().unwrap();
        merging.join().unwrap()
    });
    assert_eq!(kind(outcome), Some(ErrorKind::Busy));
    assert_eq!(stages(), 0, "a merge that was overtaken left its stage");
    assert_eq!(store.list(None).unwrap().snapshots.len(), 4);
    store.merge(&merge).unwrap();
}
