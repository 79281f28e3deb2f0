//! Memory that was laid out anew: read from every file, published, interrupted, forged.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use super::rig::{
    self, PAGES, image, kind, named, options, path, reopen, restored, staged_of, store, take,
    verify,
};
use crate::{Access, ErrorKind, NewSnapshot, RelayoutReport, Selection, Store, StoreError};
use snapshot_format::{DataLayout, FileKind, Placement, SnapshotId, SnapshotRef};
use snapshot_memory::backend::{Backend, Fault, FaultBackend, LockMode, MemBackend};
use snapshot_memory::{
    Cancel, CaptureControl, CaptureOptions, FrameCodec, LayoutChoice, MemoryWriter, Pages,
    RelayoutOptions, Stability, StagedFile,
};

const A: [u8; 8] = [1, 0, 3, 0, 5, 6, 7, 8];
const B: [u8; 8] = [1, 9, 0, 0, 5, 6, 7, 8];
const C: [u8; 8] = [1, 9, 2, 0, 5, 0, 7, 8];

/// A full snapshot with units of 16 pages and sparse data.
fn paused(store: &Store, new: NewSnapshot, image: &[u8]) -> SnapshotRef {
    let stage = staged_of(store, new, image, Stability::Paused).unwrap();
    stage.seal().unwrap().publish().unwrap().snapshot
}

fn child(name: &str, parent: SnapshotRef, layout: LayoutChoice) -> NewSnapshot {
    let capture = CaptureOptions::default().layout(layout);
    named("web", name).parent(Some(parent)).capture(capture)
}

fn lay(store: &Store, id: SnapshotId, layout: DataLayout) -> Result<RelayoutReport, StoreError> {
    store.relayout(id, &RelayoutOptions::of(layout))
}

fn names(tree: &MemBackend, id: SnapshotId) -> Vec<String> {
    let entries = tree.list(&path(&format!("snapshots/{id}"))).unwrap();
    entries.into_iter().map(|entry| entry.name).collect()
}

fn staging(tree: &MemBackend) -> usize {
    let hidden = |name: &str| name.starts_with('.') || name.starts_with("place.");
    ["snapshots", "locks"]
        .iter()
        .flat_map(|folder| tree.list(&path(folder)).unwrap())
        .filter(|entry| hidden(&entry.name))
        .count()
}

// spec: PLC-08
// spec: STO-27
#[test]
fn memory_reads_the_same_from_every_file_and_children_read_from_either() {
    let (tree, store) = store();
    let a = paused(&store, named("web", "a"), &image(&A));
    let b = take(&store, child("b", a, LayoutChoice::Packed), &image(&B)).unwrap();
    let c = take(&store, child("c", b, LayoutChoice::Sparse), &image(&C)).unwrap();
    let before = store.manifest(a.id).unwrap();
    for (at, layout) in [
        (a, DataLayout::Packed),
        (b, DataLayout::Sparse),
        (c, DataLayout::Packed),
    ] {
        let report = lay(&store, at.id, layout).unwrap();
        assert!(report.changed && report.written, "{report:?}");
        assert_eq!((report.generation, report.layout), (2, layout));
        assert_eq!(report.file, "memory.1.img");
        assert_ne!(report.layout_before, layout);
        let again = lay(&store, at.id, layout).unwrap();
        assert_eq!((again.changed, again.generation), (false, 2));
    }
    assert_eq!(store.manifest(a.id).unwrap(), before);
    // A child of one that was laid out anew depends on the new file, its siblings on the old one.
    let d = take(&store, named("web", "d").parent(Some(b)), &image(&A)).unwrap();
    let index = |of: SnapshotRef, on: SnapshotRef| {
        let dependencies = store.detail(of.id).unwrap().dependencies;
        let found = dependencies.iter().find(|data| data.snapshot == on.id);
        found.map(|data| data.index)
    };
    assert_eq!((index(c, b), index(d, b)), (Some(0), Some(1)));
    assert_eq!((index(c, a), index(d, a)), (Some(0), Some(0)));
    let expected = [(a, A), (b, B), (c, C), (d, A)];
    let check = |store: &Store| {
        for (at, fill) in expected {
            assert_eq!(restored(store, at).unwrap(), image(&fill));
        }
        let report = verify(store, Selection::All);
        assert!(report.ok, "{:?}", report.errors);
    };
    check(&store);
    // Back: the first file is still there, is checked, and counts again.
    for at in [a, b] {
        let first = lay(&store, at.id, DataLayout::Sparse);
        let first = first.unwrap();
        let back = lay(&store, at.id, first.layout_before).unwrap();
        assert!(!back.written);
        assert_eq!(back.generation, store.detail(at.id).unwrap().generation);
    }
    assert!(names(&tree, a.id).contains(&"memory.1.map".to_owned()));
    check(&reopen(&tree));
    assert_eq!(staging(&tree), 0);
    store.delete(&store.plan_delete(b.id).unwrap()).unwrap();
    for (at, fill) in [(c, C), (d, A)] {
        assert_eq!(restored(&store, at).unwrap(), image(&fill));
    }
}

#[test]
fn compressed_pages_read_the_same_and_take_less() {
    let (_, store) = store();
    let a = paused(&store, named("web", "a"), &image(&A));
    let b = take(&store, child("b", a, LayoutChoice::Packed), &image(&B)).unwrap();
    for at in [a, b] {
        let mut generation = 1;
        for codec in [FrameCodec::Lz4, FrameCodec::ZSTD] {
            let report = store.relayout(at.id, &RelayoutOptions::compressed(codec));
            let report = report.unwrap();
            assert!(report.changed && report.written);
            assert_eq!(report.layout, DataLayout::Frames);
            let again = store.relayout(at.id, &RelayoutOptions::compressed(codec));
            generation += 1;
            let again = again.unwrap();
            assert_eq!((again.changed, again.generation), (false, generation));
        }
        // The one of another coding is still there.
        let back = store.relayout(at.id, &RelayoutOptions::compressed(FrameCodec::Lz4));
        assert!(!back.unwrap().written);
    }
    for (at, fill) in [(a, A), (b, B)] {
        assert_eq!(restored(&store, at).unwrap(), image(&fill));
    }
    assert!(verify(&store, Selection::All).ok);
    let level = FrameCodec::Zstd { level: 23 };
    let refused = store.relayout(a.id, &RelayoutOptions::compressed(level));
    assert!(matches!(refused, Err(StoreError::Codec(_))), "{refused:?}");
    assert_eq!(kind(refused), Some(ErrorKind::Usage));
}

#[test]
fn what_cannot_be_laid_out_is_refused_by_name() {
    let (tree, store) = store();
    let a = paused(&store, named("web", "a"), &image(&A));
    let nobody = SnapshotId([7; 16]);
    let missing = lay(&store, nobody, DataLayout::Packed);
    assert_eq!(kind(missing), Some(ErrorKind::NotFound));
    let backend: Arc<dyn Backend> = Arc::new(tree.clone());
    let reader = Store::open(backend, &options().access(Access::ReadOnly)).unwrap();
    let refused = lay(&reader, a.id, DataLayout::Packed);
    assert!(matches!(refused, Err(StoreError::ReadOnly)), "{refused:?}");
    assert_eq!(staging(&tree), 0);
}

// spec: STO-27
#[test]
fn one_placement_of_a_snapshot_is_made_at_a_time() {
    let (tree, store) = store();
    let a = paused(&store, named("web", "a"), &image(&A));
    let lock = path(&format!("locks/place.{}", a.id));
    let held = tree.lock(&lock, LockMode::Exclusive, Duration::ZERO);
    let held = held.unwrap();
    let busy = lay(&store, a.id, DataLayout::Packed);
    assert_eq!(kind(busy), Some(ErrorKind::Busy));
    drop(held);
    // A reader does not keep it from being made, and keeps its own files.
    let open = store.image(a.id).unwrap();
    lay(&store, a.id, DataLayout::Packed).unwrap();
    let mut found = vec![0; image(&A).len()];
    let pages = snapshot_format::PageRange::new(0, PAGES);
    open.image().read_pages(pages, &mut found).unwrap();
    assert_eq!(found, image(&A));
}

// spec: STO-28
#[test]
fn whoever_was_overtaken_publishes_nothing() {
    let (tree, store) = store();
    let a = paused(&store, named("web", "a"), &image(&A));
    let name = |n| format!("snapshots/{}/place.{n}.vms", a.id);
    let other = tree.clone();
    let (first, third) = (path(&name(1)), path(&name(3)));
    let control = CaptureControl::default().progress(move |_| {
        // Another program, without the lock.
        let mut placement = Placement::parse(&rig::read(&other, &first)).unwrap();
        placement.generation = 3;
        let mut file = other.create(&third).unwrap();
        file.write_all_at(0, &placement.encode()).unwrap();
    });
    let options = RelayoutOptions::of(DataLayout::Packed).control(control);
    let overtaken = store.relayout(a.id, &options);
    let error = overtaken.unwrap_err();
    assert!(matches!(error, StoreError::Overtaken { .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert_eq!(staging(&tree), 0);
    let left = names(&tree, a.id);
    assert!(!left.iter().any(|name| name.contains(".1.img")), "{left:?}");
    assert_eq!(lay(&store, a.id, DataLayout::Packed).unwrap().generation, 4);
    assert_eq!(restored(&store, a).unwrap(), image(&A));
}

// spec: STO-29
#[test]
fn leftovers_go_when_the_store_is_opened_and_only_when_nobody_holds_them() {
    let (tree, store) = store();
    let a = paused(&store, named("web", "a"), &image(&A));
    lay(&store, a.id, DataLayout::Packed).unwrap();
    let folder = format!("snapshots/{}", a.id);
    let stage = format!("snapshots/.place-{}", a.id);
    tree.create_dir(&path(&stage)).unwrap();
    for name in [
        format!("{stage}/memory.2.map"),
        format!("{folder}/memory.2.img"),
        format!("{folder}/memory.02.img"),
        format!("{folder}/memory.1.imgs"),
    ] {
        tree.create(&path(&name)).unwrap();
    }
    let lock = path(&format!("locks/place.{}", a.id));
    let held = tree.lock(&lock, LockMode::Exclusive, Duration::ZERO);
    let held = held.unwrap();
    reopen(&tree);
    assert!(names(&tree, a.id).contains(&"memory.2.img".to_owned()));
    drop(held);
    let store = reopen(&tree);
    let left = names(&tree, a.id);
    assert!(!left.contains(&"memory.2.img".to_owned()), "{left:?}");
    // Files that are named, and names that nobody gave.
    for name in [
        "memory.1.img",
        "memory.1.map",
        "memory.02.img",
        "memory.1.imgs",
    ] {
        assert!(left.contains(&name.to_owned()), "{name}");
    }
    assert_eq!(staging(&tree), 0);
    assert_eq!(restored(&store, a).unwrap(), image(&A));
    // A placement that cannot be read may name any file: all of them stay.
    let lost = path(&format!("{folder}/place.2.vms"));
    tree.tamper(&lost, |bytes| bytes[200] ^= 1).unwrap();
    tree.create_dir(&path(&stage)).unwrap();
    reopen(&tree);
    assert!(names(&tree, a.id).contains(&"memory.1.img".to_owned()));
    assert_eq!(staging(&tree), 0);
    // What counts then is the placement below, and a new one goes above.
    assert_eq!(restored(&store, a).unwrap(), image(&A));
    assert_eq!(lay(&store, a.id, DataLayout::Packed).unwrap().generation, 3);
}

// spec: STO-28
#[test]
fn work_that_fails_or_is_broken_off_leaves_nothing() {
    let (tree, store) = store();
    let a = paused(&store, named("web", "a"), &image(&A));
    let before = names(&tree, a.id);
    let cancel = Cancel::default();
    cancel.ask();
    let control = CaptureControl::default()
        .cancel(cancel)
        .bytes_per_second(NonZeroU64::new(1));
    let options_of = RelayoutOptions::of(DataLayout::Packed).control(control);
    let stopped = store.relayout(a.id, &options_of);
    assert_eq!(kind(stopped), Some(ErrorKind::Interrupted));
    assert_eq!((names(&tree, a.id), staging(&tree)), (before.clone(), 0));
    let whole = FaultBackend::new(&tree);
    lay(&open(&whole), a.id, DataLayout::Packed).unwrap();
    let calls = whole.calls();
    let mut uncertain = 0;
    for number in 1..=calls.len() {
        for fault in [
            Fault::Error(std::io::ErrorKind::StorageFull),
            Fault::Errno(5),
        ] {
            let backend = FaultBackend::new(&tree);
            backend.fail_at(number, fault);
            let done = Store::open(Arc::new(backend.clone()), &options())
                .and_then(|store| lay(&store, a.id, DataLayout::Packed));
            let live = backend.live();
            match done {
                Err(error) if error.kind() == ErrorKind::DurabilityUncertain => {
                    uncertain += 1;
                    assert!(names(&live, a.id).contains(&"place.2.vms".to_owned()));
                }
                // What fails after the placement counts is cleaned up later.
                Ok(_) => {}
                Err(_) => {
                    let place = format!("call {number}: {:?}", calls[number - 1]);
                    reopen(&live);
                    assert_eq!(names(&live, a.id), before, "{place}");
                }
            }
            let store = reopen(&live);
            assert_eq!(staging(&live), 0, "call {number}");
            assert_eq!(restored(&store, a).unwrap(), image(&A));
            assert!(verify(&store, Selection::All).ok);
        }
    }
    assert!(uncertain >= 2, "{uncertain}");
}

fn open(backend: &FaultBackend) -> Store {
    Store::open(Arc::new(backend.clone()), &options()).unwrap()
}

/// A second memory under the name of the first: what `fill` says, as snapshot `a` would hold it.
fn forge(tree: &MemBackend, a: SnapshotRef, fill: &[u8]) {
    let folder = format!("snapshots/{}", a.id);
    for name in ["memory.1.img", "memory.1.map"] {
        tree.remove_file(&path(&format!("{folder}/{name}")))
            .unwrap();
    }
    let create = |name: &str| StagedFile::create(tree, path(&format!("{folder}/{name}"))).unwrap();
    let (mut data, mut map) = (create("memory.1.img"), create("memory.1.map"));
    let capture = CaptureOptions::default().layout(LayoutChoice::Packed);
    let written = MemoryWriter::new(a.id, Stability::Paused)
        .options(capture)
        .write(
            &rig::Guest::new(&image(fill)),
            Pages::Full,
            &mut data,
            &mut map,
        )
        .unwrap();
    let place = path(&format!("{folder}/place.2.vms"));
    let mut placement = Placement::parse(&rig::read(tree, &place)).unwrap();
    for file in &mut placement.files {
        match (file.kind, file.index) {
            (FileKind::MemoryData, 1) => {
                file.digest = written.map_root;
                file.len_bytes = written.data_len_bytes;
            }
            (FileKind::MemoryMap, 1) => {
                file.digest = written.map_frame;
                file.len_bytes = written.map_len_bytes;
            }
            _ => {}
        }
    }
    placement.dependencies[0].map_root = written.map_root;
    placement.flattened = written.flattened;
    let bytes = placement.encode();
    tree.tamper(&place, |old| old.clone_from(&bytes)).unwrap();
}

// spec: PLC-08
#[test]
fn a_placement_that_names_another_memory_is_refused() {
    for stability in [Stability::Paused, Stability::Running] {
        let (tree, store) = store();
        let stage = staged_of(&store, named("web", "a"), &image(&A), stability).unwrap();
        let a = stage.seal().unwrap().publish().unwrap().snapshot;
        lay(&store, a.id, DataLayout::Packed).unwrap();
        // The same, written by somebody else.
        forge(&tree, a, &A);
        assert_eq!(restored(&store, a).unwrap(), image(&A));
        assert!(verify(&store, Selection::All).ok);
        // Other pages that are zero: seen when it is opened.
        forge(&tree, a, &B);
        assert_eq!(kind(restored(&store, a)), Some(ErrorKind::Corrupt));
        assert!(!verify(&store, Selection::All).ok);
        assert_eq!(
            kind(lay(&store, a.id, DataLayout::Sparse)),
            Some(ErrorKind::Corrupt)
        );
        // Other bytes in the same pages: seen when every byte is checked.
        forge(&tree, a, &[1, 0, 3, 0, 5, 6, 7, 9]);
        let report = verify(&store, Selection::All);
        assert_eq!(report.errors.len(), 1, "{:?}", report.errors);
        let error = &report.errors[0];
        assert!(
            error.message.contains("does not hold the memory"),
            "{error:?}"
        );
        assert_eq!(error.kind, ErrorKind::Corrupt);
    }
}

// spec: PLC-08
#[test]
fn a_placement_that_does_not_keep_the_first_memory_is_passed_over() {
    let (tree, store) = store();
    let a = paused(&store, named("web", "a"), &image(&A));
    lay(&store, a.id, DataLayout::Packed).unwrap();
    let place = path(&format!("snapshots/{}/place.2.vms", a.id));
    let sound = Placement::parse(&rig::read(&tree, &place)).unwrap();
    let without = |kind| {
        let mut placement = sound.clone();
        placement
            .files
            .retain(|file| (file.kind, file.index) != (kind, 0));
        placement
    };
    let mut twice = sound.clone();
    let mut first = sound.dependencies[0];
    first.index = 0;
    first.map_root = store.manifest(a.id).unwrap().map_root.unwrap();
    twice.dependencies.push(first);
    let mut replaced = sound.clone();
    for file in &mut replaced.files {
        if (file.kind, file.index) == (FileKind::MemoryData, 0) {
            file.digest = sound.dependencies[0].map_root;
        }
    }
    for bad in [
        without(FileKind::MemoryMap),
        without(FileKind::MemoryData),
        twice,
        replaced,
    ] {
        let bytes = bad.encode();
        tree.tamper(&place, |old| old.clone_from(&bytes)).unwrap();
        let detail = store.detail(a.id).unwrap();
        assert_eq!((detail.generation, detail.problems.len()), (1, 1));
        assert_eq!(restored(&store, a).unwrap(), image(&A));
        assert!(!verify(&store, Selection::All).ok);
    }
}

// spec: STO-23
#[test]
fn damage_in_any_file_from_before_or_after_is_reported() {
    let (tree, store) = store();
    let a = paused(&store, named("web", "a"), &image(&A));
    lay(&store, a.id, DataLayout::Packed).unwrap();
    for name in names(&tree, a.id) {
        let name = path(&format!("snapshots/{}/{name}", a.id));
        let len = rig::read(&tree, &name).len();
        for at in [0, len / 2, len - 1] {
            let copy = tree.snapshot();
            copy.tamper(&name, |bytes| bytes[at] ^= 1).unwrap();
            let report = verify(&reopen(&copy), Selection::All);
            let named = |file: &Option<String>| file.as_deref() == Some(name.as_str());
            let found = report.errors.iter().any(|error| named(&error.file));
            assert!(found, "{name} at {at}: {:?}", report.errors);
        }
    }
}
