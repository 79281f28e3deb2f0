//! Working sets: given, replaced, carried over, dropped, interrupted, damaged.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::rig::{
    A, PAGE, image, kind, names, one, options, path, reopen, restored, verify,
    with_each_call_failing,
};
use crate::{Access, ErrorKind, Selection, Store, StoreError};
use snapshot_format::{
    Arch, DataLayout, Digest, EnvelopeBuilder, FileKind, PageRange, SectionKind, SnapshotId,
    SnapshotRef, WorkingSetIndex, WorkingSetOrigin, WorkingSetRun,
};
use snapshot_memory::RelayoutOptions;
use snapshot_memory::backend::{Backend, MemBackend};

const DATA: SectionKind = SectionKind::WORKING_SET_DATA;

/// A working set of a snapshot of [`A`]: its page that is filled with `fill`, and one that is zero.
fn envelope(snapshot: SnapshotRef, fill: u8) -> Vec<u8> {
    let page = A.iter().position(|byte| *byte == fill).unwrap();
    lying(snapshot, page as u64, 1, fill)
}

/// A working set that says that page `page` is filled with `fill`, and page `zero` with nothing.
fn lying(snapshot: SnapshotRef, page: u64, zero: u64, fill: u8) -> Vec<u8> {
    let data = vec![fill; PAGE];
    let run = |start, is_zero| WorkingSetRun {
        pages: PageRange::new(start, 1),
        is_zero,
    };
    let index = WorkingSetIndex {
        manifest: snapshot.digest,
        page_count: A.len() as u64,
        origin: WorkingSetOrigin::Named,
        runs: vec![run(page, false), run(zero, true)],
        digests: vec![Digest::of(&data)],
    };
    let frame = index.frame(snapshot.id, Digest::of(&data));
    [frame.head, data, frame.tail].concat()
}

fn of_nobody() -> SnapshotRef {
    SnapshotRef {
        id: SnapshotId([9; 16]),
        digest: Digest([9; 32]),
    }
}

fn files(tree: &MemBackend, id: SnapshotId) -> Vec<String> {
    names(tree, &format!("snapshots/{id}"))
}

fn working_sets(tree: &MemBackend, id: SnapshotId) -> Vec<String> {
    let mut files = files(tree, id);
    files.retain(|name| name.starts_with("working-set"));
    files
}

/// The bytes of the pages of the working set.
fn read(store: &Store, id: SnapshotId) -> Option<Vec<u8>> {
    let stored = store.working_set(id).unwrap()?;
    Some(stored.file().section(DATA, 0).unwrap())
}

// spec: STO-30
#[test]
fn the_newest_working_set_counts_and_takes_the_place_of_the_one_before() {
    let (tree, store, a) = one();
    assert!(store.working_set(a.id).unwrap().is_none());
    assert_eq!(store.drop_working_set(a.id).unwrap(), None);
    for (generation, fill) in [(2, 7), (3, 8)] {
        let bytes = envelope(a, fill);
        let report = store.publish_working_set(a.id, &bytes).unwrap();
        assert_eq!((report.id, report.generation), (a.id, generation));
        assert_eq!(report.len_bytes, bytes.len() as u64);
        assert_eq!(read(&store, a.id), Some(vec![fill; PAGE]));
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
    assert_eq!(read(&store, a.id), Some(vec![8; PAGE]));
    let open = store.working_set(a.id).unwrap().unwrap();
    let dropped = store.drop_working_set(a.id).unwrap().unwrap();
    assert_eq!((dropped.generation, dropped.file), (5, None));
    assert!(store.working_set(a.id).unwrap().is_none());
    assert!(working_sets(&tree, a.id).is_empty());
    assert!(files(&tree, a.id).contains(&"memory.1.img".to_owned()));
    // Who has it open reads on.
    let section = open.file().section(DATA, 0);
    assert_eq!(section.unwrap(), vec![8; PAGE]);
    assert_eq!(restored(&reopen(&tree), a).unwrap(), image(&A));
    let report = verify(&store, Selection::All);
    assert!(report.ok, "{:?}", report.errors);
}

// spec: STO-30
#[test]
fn what_is_no_working_set_of_the_snapshot_is_not_published() {
    let (tree, store, a) = one();
    let before = files(&tree, a.id);
    let other = envelope(of_nobody(), 7);
    let mut cut = envelope(a, 7);
    cut.pop();
    let state = EnvelopeBuilder::new(FileKind::State, Arch::None, a.id).finish();
    for bytes in [other, cut, state, Vec::new()] {
        let refused = store.publish_working_set(a.id, &bytes);
        assert_eq!(kind(refused), Some(ErrorKind::Corrupt));
        assert_eq!(files(&tree, a.id), before);
    }
    let bytes = envelope(of_nobody(), 7);
    let nobody = store.publish_working_set(of_nobody().id, &bytes);
    assert_eq!(kind(nobody), Some(ErrorKind::NotFound));
    let backend: Arc<dyn Backend> = Arc::new(tree.clone());
    let reader = Store::open(backend, &options().access(Access::ReadOnly)).unwrap();
    let refused = reader.publish_working_set(a.id, &envelope(a, 7));
    assert!(matches!(refused, Err(StoreError::ReadOnly)), "{refused:?}");
}

// spec: STO-30
#[test]
fn a_working_set_that_is_lost_or_damaged_is_reported_and_never_handed_out() {
    let (tree, store, a) = one();
    let bytes = envelope(a, 7);
    store.publish_working_set(a.id, &bytes).unwrap();
    let name = path(&format!("snapshots/{}/working-set.2", a.id));
    for at in (0..bytes.len()).step_by(5) {
        let copy = tree.snapshot();
        copy.tamper(&name, |bytes| bytes[at] ^= 1).unwrap();
        let store = reopen(&copy);
        let read = store.working_set(a.id);
        let read = read.and_then(|set| {
            let set = set.unwrap();
            set.file().section(SectionKind::WORKING_SET, 0)?;
            Ok(set.file().section(DATA, 0)?)
        });
        let padding = read.as_ref().ok() == Some(&vec![7; PAGE]);
        assert!(padding || kind(read) == Some(ErrorKind::Corrupt), "{at}");
        let report = verify(&store, Selection::One(a.id));
        let found = report.errors.iter();
        let found = found.filter(|error| error.file.as_deref() == Some(name.as_str()));
        assert_eq!((found.count(), report.errors.len()), (1, 1), "{at}");
    }
    // Another one in its place, however sound.
    let other = envelope(a, 8);
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

// spec: STO-23
// spec: WS-12
#[test]
fn verifying_compares_every_page_of_a_working_set_with_the_snapshot() {
    let (tree, store, a) = one();
    let name = format!("snapshots/{}/working-set", a.id);
    let other = SnapshotRef {
        digest: Digest([9; 32]),
        ..a
    };
    let lies = [
        (lying(a, 4, 1, 6), "other bytes for the image pages 4..5"),
        (lying(a, 4, 2, 5), "other bytes for the image pages 2..3"),
        (lying(a, 3, 1, 5), "other bytes for the image pages 3..4"),
        (lying(other, 4, 1, 5), "is the working set of snapshot"),
    ];
    for (bytes, told) in lies {
        store.publish_working_set(a.id, &bytes).unwrap();
        let report = verify(&store, Selection::One(a.id));
        assert_eq!(report.errors.len(), 1, "{:?}", report.errors);
        let problem = &report.errors[0];
        assert_eq!(problem.kind, ErrorKind::Corrupt);
        assert!(problem.message.contains(told), "{}", problem.message);
        assert!(problem.hint.contains("record"), "{}", problem.hint);
        let file = problem.file.as_deref().unwrap();
        assert!(file.starts_with(&name), "{file}");
        // The snapshot is as good as before.
        assert_eq!(restored(&reopen(&tree), a).unwrap(), image(&A));
    }
    store.publish_working_set(a.id, &envelope(a, 5)).unwrap();
    assert!(verify(&store, Selection::All).ok);
    // Whoever has enough of it can stop it.
    let mut calls = 0;
    let mut count = |_: crate::VerifyProgress| {
        calls += 1;
        ControlFlow::Continue(())
    };
    store.verify(Selection::All, &mut count).unwrap();
    for last in 0..calls {
        let mut left = last;
        let stopped = store.verify(Selection::All, &mut |_| {
            if left == 0 {
                return ControlFlow::Break(());
            }
            left -= 1;
            ControlFlow::Continue(())
        });
        assert_eq!(
            kind(stopped.map(drop)),
            Some(ErrorKind::Interrupted),
            "{last}"
        );
    }
}

// spec: STO-29
#[test]
fn a_working_set_that_counts_no_more_goes_when_the_store_is_opened() {
    let (tree, store, a) = one();
    let bytes = envelope(a, 7);
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
    assert_eq!(read(&store, a.id), Some(vec![7; PAGE]));
}

// spec: STO-28
#[test]
fn work_that_fails_leaves_the_working_set_from_before_or_the_new_one() {
    let (tree, store, a) = one();
    store.publish_working_set(a.id, &envelope(a, 7)).unwrap();
    let replace = |store: &Store| store.publish_working_set(a.id, &envelope(a, 8));
    let whole = with_each_call_failing(&tree, replace, |done, live, call| {
        let store = reopen(live);
        let counts = match done {
            Ok(_) => 8,
            Err(error) if error.kind() == ErrorKind::DurabilityUncertain => 8,
            Err(_) => 7,
        };
        assert_eq!(read(&store, a.id), Some(vec![counts; PAGE]), "{call}");
        let report = verify(&store, Selection::All);
        assert!(report.ok, "{call}: {:?}", report.errors);
        if done.is_err() && counts == 7 {
            assert_eq!(working_sets(live, a.id), ["working-set.2"], "{call}");
        }
    });
    assert_eq!(restored(&reopen(&whole), a).unwrap(), image(&A));
}
