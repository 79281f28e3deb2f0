//! Working sets: given, replaced, carried over, dropped, interrupted, damaged.

use std::sync::Arc;

use super::rig::{image, kind, named, options, path, reopen, restored, store, take, verify};
use crate::{Access, ErrorKind, Selection, Store, StoreError};
use snapshot_format::{
    Arch, DataLayout, EnvelopeBuilder, FileKind, SectionKind, SectionPayload, SnapshotId,
};
use snapshot_memory::RelayoutOptions;
use snapshot_memory::backend::{Backend, Fault, FaultBackend, MemBackend};

const A: [u8; 8] = [1, 0, 3, 0, 5, 6, 7, 8];

/// An envelope of a working set; what it says is of no account to the store.
fn envelope(id: SnapshotId, fill: u8, len: usize) -> Vec<u8> {
    EnvelopeBuilder::new(FileKind::WorkingSet, Arch::None, id)
        .section(&SectionPayload::raw(
            SectionKind::CALLER,
            0,
            1,
            vec![fill; len],
        ))
        .finish()
}

fn names(tree: &MemBackend, id: SnapshotId) -> Vec<String> {
    let entries = tree.list(&path(&format!("snapshots/{id}"))).unwrap();
    entries.into_iter().map(|entry| entry.name).collect()
}

fn working_sets(tree: &MemBackend, id: SnapshotId) -> Vec<String> {
    let mut names = names(tree, id);
    names.retain(|name| name.starts_with("working-set"));
    names
}

/// The one section of the working set.
fn read(store: &Store, id: SnapshotId) -> Option<Vec<u8>> {
    let stored = store.working_set(id).unwrap()?;
    Some(stored.file().section(SectionKind::CALLER, 0).unwrap())
}

// spec: STO-30
#[test]
fn the_newest_working_set_counts_and_takes_the_place_of_the_one_before() {
    let (tree, store) = store();
    let a = take(&store, named("web", "a"), &image(&A)).unwrap();
    assert!(store.working_set(a.id).unwrap().is_none());
    assert_eq!(store.drop_working_set(a.id).unwrap(), None);
    for (generation, fill) in [(2, 7), (3, 8)] {
        let bytes = envelope(a.id, fill, 5000);
        let report = store.publish_working_set(a.id, &bytes).unwrap();
        assert_eq!((report.id, report.generation), (a.id, generation));
        assert_eq!(report.len_bytes, bytes.len() as u64);
        assert_eq!(read(&store, a.id), Some(vec![fill; 5000]));
        let file = format!("working-set.{generation}");
        assert_eq!(working_sets(&tree, a.id), std::slice::from_ref(&file));
        assert_eq!(report.file, Some(file));
    }
    // It is no part of what the snapshot is.
    assert_eq!(store.snapshot(a.id).unwrap().digest, a.digest);
    assert_eq!(restored(&store, a).unwrap(), image(&A));
    // Memory that is laid out anew keeps it, and the other way round.
    let packed = RelayoutOptions::of(DataLayout::Packed);
    assert_eq!(store.relayout(a.id, &packed).unwrap().generation, 4);
    assert_eq!(read(&store, a.id), Some(vec![8; 5000]));
    let open = store.working_set(a.id).unwrap().unwrap();
    let dropped = store.drop_working_set(a.id).unwrap().unwrap();
    assert_eq!((dropped.generation, dropped.file), (5, None));
    assert!(store.working_set(a.id).unwrap().is_none());
    assert!(working_sets(&tree, a.id).is_empty());
    assert!(names(&tree, a.id).contains(&"memory.1.img".to_owned()));
    // Who has it open reads on.
    let section = open.file().section(SectionKind::CALLER, 0);
    assert_eq!(section.unwrap(), vec![8; 5000]);
    assert_eq!(restored(&reopen(&tree), a).unwrap(), image(&A));
    let report = verify(&store, Selection::All);
    assert!(report.ok, "{:?}", report.errors);
}

// spec: STO-30
#[test]
fn what_is_no_working_set_of_the_snapshot_is_not_published() {
    let (tree, store) = store();
    let a = take(&store, named("web", "a"), &image(&A)).unwrap();
    let before = names(&tree, a.id);
    let other = envelope(SnapshotId([9; 16]), 7, 10);
    let mut cut = envelope(a.id, 7, 10);
    cut.pop();
    let state = EnvelopeBuilder::new(FileKind::State, Arch::None, a.id).finish();
    for bytes in [other, cut, state, Vec::new()] {
        let refused = store.publish_working_set(a.id, &bytes);
        assert_eq!(kind(refused), Some(ErrorKind::Corrupt));
        assert_eq!(names(&tree, a.id), before);
    }
    let bytes = envelope(SnapshotId([7; 16]), 7, 10);
    let nobody = store.publish_working_set(SnapshotId([7; 16]), &bytes);
    assert_eq!(kind(nobody), Some(ErrorKind::NotFound));
    let backend: Arc<dyn Backend> = Arc::new(tree.clone());
    let reader = Store::open(backend, &options().access(Access::ReadOnly)).unwrap();
    let refused = reader.publish_working_set(a.id, &envelope(a.id, 7, 10));
    assert!(matches!(refused, Err(StoreError::ReadOnly)), "{refused:?}");
}

// spec: STO-30
#[test]
fn a_working_set_that_is_lost_or_damaged_is_reported_and_never_handed_out() {
    let (tree, store) = store();
    let a = take(&store, named("web", "a"), &image(&A)).unwrap();
    let bytes = envelope(a.id, 7, 5000);
    store.publish_working_set(a.id, &bytes).unwrap();
    let name = path(&format!("snapshots/{}/working-set.2", a.id));
    for at in 0..bytes.len() {
        let copy = tree.snapshot();
        copy.tamper(&name, |bytes| bytes[at] ^= 1).unwrap();
        let store = reopen(&copy);
        let read = store.working_set(a.id);
        let read = read.and_then(|set| {
            let set = set.unwrap();
            Ok(set.file().section(SectionKind::CALLER, 0)?)
        });
        let padding = read.as_ref().ok() == Some(&vec![7; 5000]);
        assert!(padding || kind(read) == Some(ErrorKind::Corrupt), "{at}");
        let report = verify(&store, Selection::One(a.id));
        let found = report.errors.iter();
        let found = found.filter(|error| error.file.as_deref() == Some(name.as_str()));
        assert_eq!((found.count(), report.errors.len()), (1, 1), "{at}");
    }
    // Another one in its place, however sound.
    let other = envelope(a.id, 8, 5000);
    let copy = tree.snapshot();
    copy.tamper(&name, |bytes| bytes.clone_from(&other))
        .unwrap();
    assert_eq!(
        kind(reopen(&copy).working_set(a.id)),
        Some(ErrorKind::Corrupt)
    );
    tree.remove_file(&name).unwrap();
    let store = reopen(&tree);
    assert_eq!(kind(store.working_set(a.id)), Some(ErrorKind::Corrupt));
    assert!(!verify(&store, Selection::All).ok);
    // The memory is as it was, and the loss can be made good.
    assert_eq!(restored(&store, a).unwrap(), image(&A));
    store.drop_working_set(a.id).unwrap();
    assert!(verify(&store, Selection::All).ok);
}

// spec: STO-29
#[test]
fn a_working_set_that_counts_no_more_goes_when_the_store_is_opened() {
    let (tree, store) = store();
    let a = take(&store, named("web", "a"), &image(&A)).unwrap();
    let bytes = envelope(a.id, 7, 100);
    store.publish_working_set(a.id, &bytes).unwrap();
    let folder = format!("snapshots/{}", a.id);
    let make = |name: &str| {
        let mut file = tree.create(&path(&format!("{folder}/{name}"))).unwrap();
        file.write_all_at(0, &bytes).unwrap();
    };
    make("working-set.1");
    make("working-set.02");
    // A mark of one who died.
    tree.create_dir(&path(&format!("snapshots/.place-{}", a.id)))
        .unwrap();
    let store = reopen(&tree);
    let left = working_sets(&tree, a.id);
    assert_eq!(left, ["working-set.02", "working-set.2"]);
    // A placement that cannot be read may name any.
    let lost = path(&format!("{folder}/place.1.vms"));
    tree.tamper(&lost, |bytes| bytes[200] ^= 1).unwrap();
    make("working-set.1");
    store.publish_working_set(a.id, &bytes).unwrap();
    let left = working_sets(&tree, a.id);
    assert_eq!(left, ["working-set.02", "working-set.1", "working-set.3"]);
    assert_eq!(read(&store, a.id), Some(vec![7; 100]));
}

// spec: STO-28
#[test]
fn work_that_fails_leaves_the_working_set_from_before_or_the_new_one() {
    let (tree, store) = store();
    let a = take(&store, named("web", "a"), &image(&A)).unwrap();
    store
        .publish_working_set(a.id, &envelope(a.id, 7, 100))
        .unwrap();
    let replace = |backend: &FaultBackend| {
        let store = Store::open(Arc::new(backend.clone()), &options())?;
        store.publish_working_set(a.id, &envelope(a.id, 8, 100))
    };
    let whole = FaultBackend::new(&tree);
    replace(&whole).unwrap();
    for number in 1..=whole.calls().len() {
        for fault in [
            Fault::Error(std::io::ErrorKind::StorageFull),
            Fault::Errno(5),
        ] {
            let backend = FaultBackend::new(&tree);
            backend.fail_at(number, fault);
            let done = replace(&backend);
            let live = backend.live();
            let store = reopen(&live);
            let counts = match &done {
                Ok(_) => 8,
                Err(error) if error.kind() == ErrorKind::DurabilityUncertain => 8,
                Err(_) => 7,
            };
            assert_eq!(read(&store, a.id), Some(vec![counts; 100]), "{number}");
            let report = verify(&store, Selection::All);
            assert!(report.ok, "{number}: {:?}", report.errors);
            if done.is_err() && counts == 7 {
                assert_eq!(working_sets(&live, a.id), ["working-set.2"], "{number}");
            }
        }
    }
    assert_eq!(restored(&reopen(&whole.live()), a).unwrap(), image(&A));
}
