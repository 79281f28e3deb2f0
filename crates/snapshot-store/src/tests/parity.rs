//! What is damaged comes back from parity, without any copy.

use std::ops::ControlFlow;

use super::rig::{
    A, PAGE, image, kind, one, path, read, reopen, restored, verify, with_each_call_failing,
};
use crate::{
    ErrorKind, GarbageOptions, Location, ParityOptions, RepairOutcome, RepairReport, Selection,
    Store,
};
use snapshot_format::{DataLayout, SnapshotRef};
use snapshot_memory::backend::{Backend, MemBackend};
use snapshot_memory::{FrameCodec, RelayoutOptions};

fn tell(_: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn covered(percent: u8) -> (MemBackend, Store, SnapshotRef) {
    let (tree, store, a) = one();
    let report = store.add_parity(a.id, &ParityOptions::percent(percent), &mut tell);
    let report = report.unwrap();
    assert_eq!(report.files.len(), 5, "{report:?}");
    assert!(verify(&store, Selection::All).ok);
    (tree, store, a)
}

fn file_of(id: SnapshotRef, name: &str) -> String {
    format!("snapshots/{}/{name}", id.id)
}

fn repair(store: &Store, a: SnapshotRef) -> RepairReport {
    let plan = store.plan_repair(a.id, None, &mut tell).unwrap();
    let done = store.repair(a.id, None, &mut tell).unwrap();
    assert_eq!(plan.outcome, done.outcome, "{plan:?} {done:?}");
    done
}

fn mends_from_parity(store: &Store, a: SnapshotRef) {
    let report = repair(store, a);
    assert_eq!(report.outcome, RepairOutcome::Mended, "{report:?}");
    let from = [file_of(a, "parity")];
    assert!(
        report.files.iter().all(|file| file.from == from),
        "{report:?}"
    );
    let checked = verify(store, Selection::All);
    assert!(checked.ok, "{:?}", checked.errors);
    assert_eq!(restored(store, a).unwrap(), image(&A));
}

// spec: PAR-03
// spec: PAR-07
#[test]
fn memory_comes_back_up_to_the_share_that_was_asked_for_and_no_further() {
    let (tree, store, a) = covered(20);
    let data = path(&file_of(a, "memory.img"));
    let whole = read(&tree, &data);
    tree.tamper(&data, |bytes| bytes[5 * PAGE..5 * PAGE + 2048].fill(0xa5))
        .unwrap();
    mends_from_parity(&store, a);
    assert_eq!(read(&tree, &data), whole);
    tree.tamper(&data, |bytes| bytes[4 * PAGE..7 * PAGE].fill(0xa5))
        .unwrap();
    let damaged = read(&tree, &data);
    assert_eq!(repair(&store, a).outcome, RepairOutcome::Lost);
    assert_eq!(read(&tree, &data), damaged);
}

// spec: PAR-03
// spec: PAR-07
#[test]
fn every_file_that_is_covered_comes_back_from_nothing_with_parity_of_all() {
    for name in [
        "manifest.vms",
        "state.vms",
        "memory.map",
        "memory.img",
        "place.1.vms",
    ] {
        let (tree, store, a) = covered(100);
        let file = path(&file_of(a, name));
        let whole = read(&tree, &file);
        tree.tamper(&file, |bytes| bytes[100..].fill(0x11)).unwrap();
        mends_from_parity(&store, a);
        assert_eq!(read(&tree, &file), whole, "{name}");
        tree.remove_file(&file).unwrap();
        mends_from_parity(&store, a);
        assert_eq!(read(&tree, &file), whole, "{name}");
    }
}

// spec: PAR-01
// spec: PAR-08
#[test]
fn parity_survives_damage_of_itself_and_verify_tells_of_it() {
    let spoils: [fn(&mut Vec<u8>); 4] = [
        |bytes| bytes[..300].fill(0),
        |bytes| {
            let len = bytes.len();
            bytes[len - 300..].fill(0);
        },
        |bytes| bytes.truncate(bytes.len() - 40),
        |bytes| bytes.extend([7; 100]),
    ];
    for (number, spoil) in spoils.into_iter().enumerate() {
        let (tree, store, a) = covered(30);
        tree.tamper(&path(&file_of(a, "parity")), spoil).unwrap();
        let checked = verify(&store, Selection::All);
        assert_eq!(checked.errors.len(), 1, "{number}: {:?}", checked.errors);
        assert_eq!(checked.errors[0].file, Some(file_of(a, "parity")));
        assert_eq!(restored(&store, a).unwrap(), image(&A));
        let data = path(&file_of(a, "memory.img"));
        tree.tamper(&data, |bytes| bytes[5 * PAGE..5 * PAGE + 1024].fill(0xa5))
            .unwrap();
        assert_eq!(repair(&store, a).outcome, RepairOutcome::Mended, "{number}");
        // Made anew, it is whole again.
        store
            .add_parity(a.id, &ParityOptions::default(), &mut tell)
            .unwrap();
        assert!(verify(&store, Selection::All).ok);
    }
    // A recovery shard that is damaged is not used.
    let (tree, store, a) = covered(100);
    let parity = path(&file_of(a, "parity"));
    let len = read(&tree, &parity).len();
    tree.tamper(&parity, |bytes| bytes[len / 2] ^= 1).unwrap();
    assert!(!verify(&store, Selection::All).ok);
    let data = path(&file_of(a, "memory.img"));
    tree.tamper(&data, |bytes| bytes[5 * PAGE..6 * PAGE].fill(0xa5))
        .unwrap();
    assert_eq!(repair(&store, a).outcome, RepairOutcome::Mended);
}

// spec: PAR-04
#[test]
fn what_is_damaged_gets_no_parity_and_a_failure_anywhere_leaves_the_snapshot_as_it_was() {
    let (tree, store, a) = one();
    let work = |store: &Store| store.add_parity(a.id, &ParityOptions::default(), &mut tell);
    with_each_call_failing(&tree, work, |_, live, what| {
        let store = reopen(live);
        let checked = verify(&store, Selection::All);
        assert!(checked.ok, "{what}: {:?}", checked.errors);
        work(&store).unwrap();
        assert!(verify(&store, Selection::All).ok, "{what}");
        live.metadata(&path(&format!("snapshots/.place-{}", a.id)))
            .unwrap_err();
    });
    tree.tamper(&path(&file_of(a, "memory.img")), |bytes| bytes[5] ^= 1)
        .unwrap();
    assert_eq!(kind(work(&store)), Some(ErrorKind::Corrupt));
    let none = store.add_parity(a.id, &ParityOptions::percent(0), &mut tell);
    assert_eq!(kind(none), Some(ErrorKind::Usage));
}

// spec: PAR-07
// spec: PAR-09
#[test]
fn parity_of_files_that_were_superseded_changes_nothing_and_goes_with_the_snapshot() {
    let (tree, store, a) = covered(100);
    let plain = store.allocated_bytes(Location::Live, a.id).unwrap();
    store
        .relayout(a.id, &RelayoutOptions::of(DataLayout::Packed))
        .unwrap();
    store
        .relayout(a.id, &RelayoutOptions::compressed(FrameCodec::Lz4))
        .unwrap();
    assert!(verify(&store, Selection::All).ok);
    assert_eq!(repair(&store, a).outcome, RepairOutcome::Sound);
    // Frames are covered once it is made anew.
    store
        .add_parity(a.id, &ParityOptions::percent(100), &mut tell)
        .unwrap();
    let data = path(&file_of(a, "memory.2.img"));
    tree.tamper(&data, |bytes| bytes[8..16].fill(0xee)).unwrap();
    assert_eq!(repair(&store, a).outcome, RepairOutcome::Mended);
    assert!(store.remove_parity(a.id).unwrap());
    assert!(!store.remove_parity(a.id).unwrap());
    store
        .add_parity(a.id, &ParityOptions::default(), &mut tell)
        .unwrap();
    assert!(store.allocated_bytes(Location::Live, a.id).unwrap() > plain / 2);
    store.delete(&store.plan_delete(a.id).unwrap()).unwrap();
    tree.metadata(&path(&format!("trash/{}/parity", a.id)))
        .unwrap();
    store.collect(&GarbageOptions::default()).unwrap();
    store.collect(&GarbageOptions::default()).unwrap();
}
