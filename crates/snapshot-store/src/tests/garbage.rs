//! Space given back: what goes, what stays, and what no fault, crash or clock can take.
//!
//! Tests that are named after a defect of another store keep this one from having it.

use std::sync::Arc;

use super::rig::{
    self, image, kind, named, names, options, path, reopen, restored, staged, store, take, verify,
    with_each_call_failing,
};
use crate::{ErrorKind, GarbageOptions, GarbageReport, KeptReason, Selection, Store, StoreError};
use snapshot_format::{DataLayout, SnapshotId, SnapshotRef};
use snapshot_memory::backend::{Backend, FaultBackend, LockMode, MemBackend};
use snapshot_memory::{CaptureOptions, FrameCodec, LayoutChoice, RelayoutOptions};

const A: [u8; 8] = [1, 0, 3, 0, 5, 6, 7, 8];
const B: [u8; 8] = [1, 9, 0, 0, 5, 6, 7, 8];
const C: [u8; 8] = [1, 9, 2, 0, 5, 0, 7, 8];

const DAY: u64 = 24 * 3_600_000;

fn delete(store: &Store, id: SnapshotId) {
    store.delete(&store.plan_delete(id).unwrap()).unwrap();
}

fn collect(store: &Store) -> Result<GarbageReport, StoreError> {
    store.collect(&GarbageOptions::default())
}

fn collected(report: &GarbageReport) -> Vec<SnapshotId> {
    report.collected.iter().map(|one| one.id).collect()
}

/// A live snapshot, and the fills of its pages.
type Kept = (SnapshotRef, [u8; 8]);

/// `a` ← `b` ← `c`.
fn chain(store: &Store) -> [SnapshotRef; 3] {
    let a = take(store, named("web", "a"), &image(&A)).unwrap();
    let b = take(store, named("web", "b").parent(Some(a)), &image(&B)).unwrap();
    let c = take(store, named("web", "c").parent(Some(b)), &image(&C)).unwrap();
    [a, b, c]
}

/// Lays a snapshot out anew: in compressed frames, as no snapshot is at first, or packed.
fn relaid(store: &Store, id: SnapshotId, layout: DataLayout) {
    let options = match layout {
        DataLayout::Frames => RelayoutOptions::compressed(FrameCodec::Lz4),
        layout => RelayoutOptions::of(layout),
    };
    assert!(store.relayout(id, &options).unwrap().changed);
}

/// A store in which there is all that a collection has to do: a base that is needed, a chain that is
/// not, and superseded files.
fn littered() -> (MemBackend, [Kept; 2], [SnapshotRef; 3]) {
    let (tree, store) = store();
    let deleted = chain(&store);
    let new = named("web", "d").parent(Some(deleted[0]));
    let needing = take(&store, new, &image(&[4; 8])).unwrap();
    relaid(&store, needing.id, DataLayout::Frames);
    relaid(&store, needing.id, DataLayout::Packed);
    let sparse = CaptureOptions::default().layout(LayoutChoice::Sparse);
    let alone = take(&store, named("db", "e").capture(sparse), &image(&C)).unwrap();
    relaid(&store, alone.id, DataLayout::Frames);
    for gone in deleted {
        delete(&store, gone.id);
    }
    (tree, [(needing, [4; 8]), (alone, C)], deleted)
}

fn check_live(store: &Store, live: &[Kept], what: &str) {
    for (reference, fills) in live {
        let memory = restored(store, *reference);
        assert!(memory.unwrap() == image(fills), "{what}");
    }
    let report = verify(store, Selection::All);
    assert!(report.ok, "{what}: {:?}", report.errors);
}

/// Every file of a tree that is no lock.
fn files(tree: &MemBackend) -> Vec<String> {
    let mut found = Vec::new();
    for folder in ["snapshots", "trash"] {
        for name in names(tree, folder) {
            let inner = format!("{folder}/{name}");
            let below = tree.list(&path(&inner)).unwrap();
            found.extend(below.iter().map(|entry| format!("{inner}/{}", entry.name)));
            found.push(inner);
        }
    }
    found
}

// spec: GC-01
// spec: GC-02
#[test]
fn what_nobody_needs_goes_and_a_base_stays_until_nobody_does() {
    let (tree, store) = store();
    let [a, b, c] = chain(&store);
    delete(&store, a.id);
    delete(&store, b.id);
    let report = collect(&store).unwrap();
    assert!(
        report.collected.is_empty() && report.is_complete(),
        "{report:?}"
    );
    let needed: Vec<_> = report.kept.iter().map(|kept| &kept.reason).collect();
    assert!(needed.contains(&&KeptReason::Needed { by: vec![c.id] }));
    assert_eq!(restored(&store, c).unwrap(), image(&C));
    // A deleted one that could come back needs its base as well as a live one.
    delete(&store, c.id);
    let lock = path(&format!("locks/{}", c.id));
    let lease = tree
        .lock(&lock, LockMode::Shared, options().lock_wait)
        .unwrap();
    let report = collect(&store).unwrap();
    assert!(report.collected.is_empty(), "{report:?}");
    drop(lease);
    // In one run, each after what needed it.
    assert_eq!(collected(&collect(&store).unwrap()), [c.id, b.id, a.id]);
    assert_eq!(names(&tree, "trash"), [""; 0]);
    assert_eq!(kind(store.undelete(c.id)), Some(ErrorKind::NotFound));
    let left = names(&tree, "locks");
    assert!(
        !left.iter().any(|name| name.parse::<SnapshotId>().is_ok()),
        "{left:?}"
    );
}

// spec: GC-06
// spec: GC-07
#[test]
fn superseded_files_go_when_nobody_reads_or_needs_them() {
    let (tree, store) = store();
    let sparse = CaptureOptions::default().layout(LayoutChoice::Sparse);
    let a = take(&store, named("web", "a").capture(sparse), &image(&A)).unwrap();
    relaid(&store, a.id, DataLayout::Frames);
    // A child of the second layout; then a third one counts.
    let b = take(&store, named("web", "b").parent(Some(a)), &image(&B)).unwrap();
    relaid(&store, a.id, DataLayout::Packed);
    let folder = format!("snapshots/{}", a.id);
    let before = names(&tree, &folder);
    let lease = store.lease(a.id).unwrap();
    assert!(collect(&store).unwrap().trimmed.is_empty());
    assert_eq!(names(&tree, &folder), before);
    drop(lease);
    let report = collect(&store).unwrap();
    assert_eq!(report.trimmed.len(), 1);
    // The child keeps the second one.
    let has = |name: &str| names(&tree, &folder).contains(&name.to_owned());
    assert!(has("memory.img") && has("memory.1.img") && has("memory.2.img"));
    assert!(!has("place.1.vms") && !has("place.2.vms") && has("place.3.vms"));
    check_live(&store, &[(a, A), (b, B)], "trimmed");
    delete(&store, b.id);
    let planned = store.plan_collect(&GarbageOptions::default()).unwrap();
    assert_eq!(collected(&planned), [b.id]);
    let report = collect(&store).unwrap();
    assert_eq!(collected(&report), [b.id]);
    // What the child needed is superseded from then on.
    let report = collect(&store).unwrap();
    assert_eq!(report.trimmed.len(), 1);
    assert!(has("memory.img") && !has("memory.1.img") && !has("memory.1.map"));
    assert!(has("place.4.vms") && !has("place.3.vms"));
    check_live(&reopen(&tree), &[(a, A)], "trimmed twice");
    assert!(collect(&store).unwrap().trimmed.is_empty());
}

// spec: GC-02
// spec: GC-09
#[test]
fn what_cannot_be_read_may_need_anything_and_is_told() {
    let (tree, live, [a, b, c]) = littered();
    let store = reopen(&tree);
    let place = path(&format!("snapshots/{}/place.1.vms", live[1].0.id));
    let good = rig::read(&tree, &place);
    tree.tamper(&place, |bytes| bytes[200] ^= 1).unwrap();
    let report = collect(&store).unwrap();
    assert!(report.collected.is_empty());
    assert!(!report.is_complete());
    assert!(report.problems.iter().all(|one| one.id == live[1].0.id));
    let unknown = KeptReason::Unknown {
        unreadable: live[1].0.id,
    };
    assert!(
        report
            .kept
            .iter()
            .any(|kept| kept.id == c.id && kept.reason == unknown)
    );
    // Others are looked at all the same.
    assert_eq!(report.trimmed.len(), 1);
    tree.tamper(&place, |bytes| bytes.clone_from(&good))
        .unwrap();
    assert_eq!(collected(&collect(&store).unwrap()), [c.id, b.id]);
    // A damaged one in the trash is collected itself.
    delete(&store, live[0].0.id);
    let manifest = path(&format!("trash/{}/manifest.vms", a.id));
    tree.tamper(&manifest, |bytes| bytes[200] ^= 1).unwrap();
    let report = collect(&store).unwrap();
    assert!(
        report.collected.is_empty(),
        "a damaged base may need its child: {report:?}"
    );
}

// spec: GC-04
// spec: GC-05
// spec: GC-08
#[test]
fn borg_9748_no_cut_leaves_a_name_of_what_is_partly_gone() {
    let (tree, live, deleted) = littered();
    let whole = FaultBackend::new(&tree);
    let run = |backend: &FaultBackend| {
        let store = Store::open(Arc::new(backend.clone()), &options())?;
        collect(&store)
    };
    run(&whole).unwrap();
    let expected = files(&whole.live());
    for call in 1..=whole.call_count() {
        let backend = FaultBackend::new(&tree);
        backend.cut_at(call);
        drop(run(&backend));
        for state in backend.crash_states() {
            let what = format!("cut at {call}: {}", state.what);
            let store = Store::open(Arc::new(state.image.clone()), &options()).unwrap();
            check_live(&store, &live, &what);
            // Every deleted snapshot that has its name has all of its files.
            for gone in deleted {
                let copy = state.image.snapshot();
                let store = Store::open(Arc::new(copy), &options()).unwrap();
                if store.undelete(gone.id).is_ok() {
                    restored(&store, gone).unwrap();
                }
            }
            collect(&store).unwrap();
            check_live(&store, &live, &what);
            assert_eq!(files(&state.image), expected, "{what}");
        }
    }
}

// spec: GC-08
#[test]
fn duplicacy_386_and_465_whatever_call_fails_the_next_collection_does_the_rest() {
    let (tree, live, _) = littered();
    let done = with_each_call_failing(&tree, collect, |_, left, what| {
        let store = reopen(left);
        check_live(&store, &live, what);
        let report = collect(&store).unwrap();
        assert!(report.is_complete(), "{what}: {report:?}");
        check_live(&store, &live, what);
        let again = collect(&store).unwrap();
        assert!(
            again.collected.is_empty() && again.trimmed.is_empty(),
            "{what}"
        );
    });
    let store = reopen(&done);
    assert_eq!(store.trash().unwrap().snapshots.len(), 1);
}

// spec: GC-02
#[test]
fn rustic_392_a_base_that_is_named_twice_stays_for_the_one_that_is_left() {
    let (_, store) = store();
    let a = take(&store, named("web", "a"), &image(&A)).unwrap();
    let first = take(&store, named("web", "b").parent(Some(a)), &image(&B)).unwrap();
    relaid(&store, a.id, DataLayout::Frames);
    let second = take(&store, named("web", "c").parent(Some(a)), &image(&C)).unwrap();
    delete(&store, a.id);
    for (gone, left, fills) in [(second, first, B), (first, second, C)] {
        delete(&store, gone.id);
        let report = collect(&store).unwrap();
        if gone.id == second.id {
            assert_eq!(collected(&report), [second.id]);
            assert_eq!(restored(&store, left).unwrap(), image(&fills));
        } else {
            assert_eq!(collected(&report), [first.id, a.id]);
        }
    }
}

// spec: GC-03
#[test]
fn rustic_docs_144_a_writer_that_stands_still_across_a_collection_loses_nothing() {
    let (tree, store) = store();
    let [a, b, c] = chain(&store);
    // Two that stop once their memory is written.
    let new = |name: &str| named("web", name).parent(Some(b));
    let first = staged(&store, new("x"), &image(&[2; 8])).unwrap();
    let second = staged(&store, new("y"), &image(&[3; 8])).unwrap();
    delete(&store, c.id);
    // A process of its own: everything but what the writers hold may go.
    let other = reopen(&tree);
    let refused = other.plan_delete(b.id).and_then(|plan| other.delete(&plan));
    assert_eq!(kind(refused), Some(ErrorKind::Refused));
    let refused = other.plan_delete(a.id).and_then(|plan| other.delete(&plan));
    assert_eq!(kind(refused), Some(ErrorKind::Refused));
    assert_eq!(collected(&collect(&other).unwrap()), [c.id]);
    let second = second.seal().unwrap().publish().unwrap().snapshot;
    delete(&other, second.id);
    assert_eq!(collected(&collect(&other).unwrap()), [second.id]);
    let first = first.seal().unwrap().publish().unwrap().snapshot;
    assert_eq!(restored(&store, first).unwrap(), image(&[2; 8]));
    for base in [b, a] {
        delete(&other, base.id);
    }
    assert!(collect(&other).unwrap().collected.is_empty());
    check_live(&store, &[(first, [2; 8])], "after all");
}

// spec: GC-12
#[test]
fn borg_4923_and_kopia_1087_a_lock_is_never_broken_and_a_second_collection_waits() {
    let (tree, live, _) = littered();
    let before = files(&tree);
    // Whatever another host's name or an old boot would suggest: only the kernel says who holds it.
    let held = tree
        .lock(&path("locks/gc"), LockMode::Exclusive, options().lock_wait)
        .unwrap();
    let store = reopen(&tree);
    assert_eq!(kind(collect(&store)), Some(ErrorKind::Busy));
    assert_eq!(files(&tree), before);
    drop(held);
    assert!(!collect(&store).unwrap().collected.is_empty());
    check_live(&store, &live, "collected");
}

// spec: GC-11
#[test]
fn kopia_1949_and_4769_a_grace_outlasts_clocks_that_jump_and_safety_needs_no_clock() {
    let (tree, store) = store();
    let [_, _, c] = chain(&store);
    delete(&store, c.id);
    let at = |days: u64| {
        let options = GarbageOptions::default().grace(7 * DAY, days * DAY);
        store.collect(&options).unwrap()
    };
    let is_noted = |report: &GarbageReport, day: u64| {
        let noted = KeptReason::Grace {
            noted_unix_ms: day * DAY,
        };
        report.kept.len() == 1 && report.kept[0].reason == noted
    };
    assert!(is_noted(&at(1000), 1000));
    assert!(is_noted(&at(1006), 1000));
    // A clock that went back a month: its own time is to come.
    assert!(is_noted(&at(970), 1000));
    // Brought back and deleted again: another grace.
    store.undelete(c.id).unwrap();
    delete(&store, c.id);
    assert!(is_noted(&at(1007), 1007));
    assert_eq!(collected(&at(1014)), [c.id]);
    assert_eq!(names(&tree, "trash"), [""; 0]);
}

// spec: GC-08
#[test]
fn pbs_5982_no_time_of_a_file_decides_anything() {
    // This tree keeps no times at all, and the time now may be any.
    for time in [0, u64::MAX] {
        let (tree, live, [_, b, c]) = littered();
        let store = reopen(&tree);
        let report = store.collect(&GarbageOptions::default().grace(0, time));
        assert_eq!(collected(&report.unwrap()), [c.id, b.id]);
        check_live(&store, &live, "collected");
    }
}

// spec: GC-10
#[test]
fn qemu_2909_a_disk_that_is_full_at_any_byte_blocks_no_later_repair() {
    let (tree, live, _) = littered();
    for budget in (0..8192).step_by(61) {
        let backend = FaultBackend::new(&tree);
        backend.limit_bytes(budget);
        let run = Store::open(Arc::new(backend.clone()), &options()).and_then(|s| collect(&s));
        let what = format!("{budget} bytes: {run:?}");
        let left = backend.live();
        check_live(&reopen(&left), &live, &what);
        let report = collect(&reopen(&left)).unwrap();
        assert!(report.is_complete(), "{what}");
        check_live(&reopen(&left), &live, &what);
    }
}

// spec: GC-10
#[test]
fn restic_2473_freeing_space_needs_none() {
    let (tree, live, [_, b, c]) = littered();
    let backend = FaultBackend::new(&tree);
    backend.limit_bytes(0);
    let store = Store::open(Arc::new(backend.clone()), &options()).unwrap();
    let report = collect(&store).unwrap();
    assert_eq!(collected(&report), [c.id, b.id]);
    assert!(report.freed_bytes > 0);
    check_live(&reopen(&backend.live()), &live, "a full disk");
    // The reserve of a collection that had room is what is given up.
    collect(&reopen(&tree)).unwrap();
    let has_reserve = |tree: &MemBackend| tree.metadata(&path("reserve")).is_ok();
    assert!(has_reserve(&tree));
    // What lies in frames again supersedes the packed file between, and a placement must say so.
    let store = reopen(&tree);
    relaid(&store, live[1].0.id, DataLayout::Packed);
    relaid(&store, live[1].0.id, DataLayout::Frames);
    let backend = FaultBackend::new(&tree);
    backend.limit_bytes(0);
    let store = Store::open(Arc::new(backend.clone()), &options()).unwrap();
    let report = collect(&store).unwrap();
    assert!(report.reserve_was_used && !has_reserve(&backend.live()));
    check_live(&reopen(&backend.live()), &live, "without a reserve");
}

// spec: GC-16
#[test]
fn a_number_is_not_given_again_once_its_manifest_is_gone() {
    let (tree, store) = store();
    let [_, _, c] = chain(&store);
    // What derives the file of the machine failed, and nothing else remembers the number.
    delete(&store, c.id);
    tree.remove_file(&path("vms/web.json")).unwrap();
    collect(&store).unwrap();
    let d = take(&store, named("web", "d"), &image(&A)).unwrap();
    assert_eq!(store.snapshot(d.id).unwrap().seq, 4);
}

// spec: GC-13
#[test]
fn a_plan_tells_and_changes_nothing() {
    let (tree, live, [a, b, c]) = littered();
    let store = reopen(&tree);
    let before = files(&tree);
    let plan = store.plan_collect(&GarbageOptions::default()).unwrap();
    assert_eq!(files(&tree), before);
    assert_eq!(collected(&plan), [c.id]);
    assert_eq!(plan.trimmed.len(), 2);
    let kept = |id: SnapshotId| {
        let mut kept = plan.kept.iter();
        kept.find(|one| one.id == id).map(|one| one.reason.clone())
    };
    assert_eq!(kept(b.id), Some(KeptReason::Needed { by: vec![c.id] }));
    assert!(matches!(kept(a.id), Some(KeptReason::Needed { by }) if by.contains(&live[0].0.id)));
    let graced = GarbageOptions::default().grace(DAY, 5 * DAY);
    assert!(store.plan_collect(&graced).unwrap().collected.is_empty());
    assert_eq!(files(&tree), before);
}
