//! Published files that were changed, cut off, removed or replaced.

use std::ops::ControlFlow;

use super::rig::{self, image, kind, named, path, reopen, restored, store, take, verify};
use crate::{ErrorKind, Selection, Store};
use snapshot_format::{FileKind, Placement, SnapshotRef};
use snapshot_memory::backend::{Backend, MemBackend};

const A: [u8; 8] = [1, 0, 3, 0, 5, 6, 7, 8];
const B: [u8; 8] = [1, 9, 0, 0, 5, 6, 7, 8];

fn chain() -> (MemBackend, Store, SnapshotRef, SnapshotRef) {
    let (tree, store) = store();
    let a = take(&store, named("web", "a"), &image(&A)).unwrap();
    let b = take(&store, named("web", "b").parent(Some(a)), &image(&B)).unwrap();
    (tree, store, a, b)
}

fn read(tree: &MemBackend, name: &str) -> Vec<u8> {
    let file = tree.open(&path(name)).unwrap();
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read_exact_at(0, &mut bytes).unwrap();
    bytes
}

fn write(tree: &MemBackend, name: &str, bytes: &[u8]) {
    let mut file = tree.create(&path(name)).unwrap();
    file.write_all_at(0, bytes).unwrap();
}

// spec: STO-23
#[test]
fn every_flipped_byte_and_every_cut_is_reported_with_its_file() {
    let (tree, _, a, _) = chain();
    let folder = format!("snapshots/{}", a.id);
    for entry in tree.list(&path(&folder)).unwrap() {
        let name = format!("{folder}/{}", entry.name);
        let len = read(&tree, &name).len();
        let step = (len / 60).max(1);
        for at in (0..len).step_by(step).chain([len - 1]) {
            let copy = tree.snapshot();
            copy.tamper(&path(&name), |bytes| bytes[at] ^= 1 << (at % 8))
                .unwrap();
            let report = verify(&reopen(&copy), Selection::All);
            assert!(!report.ok, "{name}: byte {at} was not missed");
            let named = report
                .errors
                .iter()
                .any(|e| e.file.as_deref() == Some(&name));
            assert!(named, "{name}: byte {at}: {:?}", report.errors);
            assert!(report.errors.iter().all(|e| e.kind == ErrorKind::Corrupt));
        }
        let copy = tree.snapshot();
        copy.tamper(&path(&name), |bytes| bytes.truncate(len / 2))
            .unwrap();
        assert!(!verify(&reopen(&copy), Selection::All).ok, "{name} cut");
        let copy = tree.snapshot();
        copy.remove_file(&path(&name)).unwrap();
        assert!(!verify(&reopen(&copy), Selection::All).ok, "{name} removed");
    }
}

// spec: STO-23
#[test]
fn one_snapshot_is_checked_with_all_that_it_needs() {
    let (tree, store, a, b) = chain();
    take(&store, named("db", "apart"), &image(&A)).unwrap();
    assert_eq!(verify(&store, Selection::All).snapshots, 3);
    let report = verify(&store, Selection::One(b.id));
    assert_eq!((report.ok, report.snapshots), (true, 2));
    let data = format!("snapshots/{}/memory.img", a.id);
    tree.tamper(&path(&data), |bytes| bytes[5 * rig::PAGE] ^= 1)
        .unwrap();
    let report = verify(&store, Selection::One(b.id));
    let error = &report.errors[0];
    assert_eq!(
        (error.snapshot, error.file.as_deref()),
        (a.id, Some(&*data))
    );
    assert_eq!(error.offset, Some(5 * rig::PAGE as u64));
    assert!(!error.hint.is_empty());
    assert_eq!(kind(restored(&store, b)), Some(ErrorKind::Corrupt));
    // Bytes of a page that is zero.
    let (tree, store, a, _) = chain();
    let data = format!("snapshots/{}/memory.img", a.id);
    tree.tamper(&path(&data), |bytes| bytes[3 * rig::PAGE + 9] = 1)
        .unwrap();
    assert!(!verify(&store, Selection::All).ok);
}

// spec: STO-10
#[test]
fn a_damaged_snapshot_is_listed_apart_and_hides_no_other() {
    let (tree, store, a, b) = chain();
    let manifest = format!("snapshots/{}/manifest.vms", a.id);
    tree.tamper(&path(&manifest), |bytes| bytes[140] ^= 1)
        .unwrap();
    let json = format!("snapshots/{}/snapshot.json", b.id);
    tree.tamper(&path(&json), |bytes| bytes[30] ^= 1).unwrap();
    let listing = store.list(None).unwrap();
    assert_eq!(listing.damaged[0].id, a.id);
    assert_eq!(listing.damaged[0].kind, ErrorKind::Corrupt);
    let record = &listing.snapshots[0];
    assert_eq!((record.id, record.metadata.protected), (b.id, true));
    assert!(record.metadata_problem.is_some() && record.metadata.name.is_none());
    // Its memory does not need the parent's manifest.
    assert_eq!(restored(&store, b).unwrap(), image(&B));
    let latest = || store.resolve(&"web@latest".parse().unwrap());
    assert_eq!(latest().unwrap(), b.id);
    let manifest = format!("snapshots/{}/manifest.vms", b.id);
    tree.tamper(&path(&manifest), |bytes| bytes[140] ^= 1)
        .unwrap();
    // Not an older one, where the latest cannot be read.
    assert_eq!(kind(latest()), Some(ErrorKind::Corrupt));
}

// spec: STO-23
#[test]
fn a_check_is_broken_off_on_request() {
    let (_, store, _, _) = chain();
    let mut asked = 0;
    let report = store.verify(Selection::All, &mut |progress| {
        asked += 1;
        assert_eq!(progress.snapshots_total, 2);
        if asked == 3 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    assert_eq!((kind(report), asked), (Some(ErrorKind::Interrupted), 3));
}

// spec: STO-20
#[test]
fn the_highest_valid_placement_counts_and_damage_above_it_is_reported() {
    let (tree, store, a, b) = chain();
    let name = |n| format!("snapshots/{}/place.{n}.vms", b.id);
    let mut second = Placement::parse(&read(&tree, &name(1))).unwrap();
    second.generation = 2;
    write(&tree, &name(2), &second.encode());
    assert_eq!(store.detail(b.id).unwrap().generation, 2);
    assert!(verify(&store, Selection::All).ok);
    tree.tamper(&path(&name(2)), |bytes| bytes[200] ^= 1)
        .unwrap();
    let detail = store.detail(b.id).unwrap();
    assert_eq!((detail.generation, detail.problems.len()), (1, 1));
    assert_eq!(restored(&store, b).unwrap(), image(&B));
    let report = verify(&store, Selection::All);
    assert_eq!(report.errors.len(), 1);
    assert_eq!(report.errors[0].file, Some(name(2)));
    // A placement of another snapshot, under this one's name.
    tree.remove_file(&path(&name(2))).unwrap();
    let foreign = format!("snapshots/{}/place.1.vms", a.id);
    write(&tree, &name(2), &read(&tree, &foreign));
    assert_eq!(store.detail(b.id).unwrap().generation, 1);
    // Names that only look like one are not read.
    write(&tree, &format!("snapshots/{}/place.03.vms", b.id), b"x");
    assert_eq!(store.detail(b.id).unwrap().problems.len(), 1);
    tree.tamper(&path(&name(1)), |bytes| bytes[200] ^= 1)
        .unwrap();
    assert_eq!(kind(restored(&store, b)), Some(ErrorKind::Corrupt));
}

// spec: STO-19
#[test]
fn a_missing_dependency_is_damage_and_a_missing_parent_is_not() {
    let (tree, store, a, b) = chain();
    let folder = format!("snapshots/{}", a.id);
    for kind in [FileKind::Manifest, FileKind::Placement, FileKind::State] {
        let index = u32::from(kind == FileKind::Placement);
        let name = format!("{folder}/{}", kind.file_name(index));
        tree.remove_file(&path(&name)).unwrap();
    }
    assert_eq!(restored(&store, b).unwrap(), image(&B));
    tree.remove_file(&path(&format!("{folder}/memory.img")))
        .unwrap();
    assert_eq!(kind(restored(&store, b)), Some(ErrorKind::Corrupt));
    let report = verify(&store, Selection::One(b.id));
    assert!(report.errors.iter().any(|error| error.snapshot == b.id));
}

// spec: STO-23
#[test]
fn two_snapshots_with_one_number_or_one_name_are_reported() {
    let (tree, store) = store();
    let a = take(&store, named("web", "a"), &image(&A)).unwrap();
    // The same store at another time, with another snapshot in the same place.
    let (other_tree, other) = rig::store();
    let twin = take(&other, named("web", "a"), &image(&B)).unwrap();
    let folder = format!("snapshots/{}", twin.id);
    tree.create_dir(&path(&folder)).unwrap();
    for entry in other_tree.list(&path(&folder)).unwrap() {
        let name = format!("{folder}/{}", entry.name);
        write(&tree, &name, &read(&other_tree, &name));
    }
    assert_eq!(restored(&store, twin).unwrap(), image(&B));
    let report = verify(&store, Selection::All);
    let told: Vec<_> = report.errors.iter().map(|error| &error.message).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].contains("sequence number 1") && told[1].contains("named a"));
    let (first, second) = (report.errors[0].snapshot, report.errors[1].snapshot);
    assert!([a.id, twin.id].contains(&first) && first == second);
}
