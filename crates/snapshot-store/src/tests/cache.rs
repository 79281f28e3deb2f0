//! Materialised images: built, found, dropped, broken off, interrupted, damaged.

use std::num::NonZeroU64;
use std::sync::Arc;

use super::rig::{self, image, kind, named, options, path, reopen, store, take, verify};
use crate::{ErrorKind, Selection, Store};
use snapshot_format::SnapshotRef;
use snapshot_memory::backend::{Backend, Fault, FaultBackend, MemBackend};
use snapshot_memory::{Cancel, CaptureControl};

const A: [u8; 8] = [1, 0, 3, 0, 5, 6, 7, 8];
const B: [u8; 8] = [1, 9, 0, 0, 5, 6, 7, 8];

fn chain() -> (MemBackend, Store, SnapshotRef, SnapshotRef) {
    let (tree, store) = store();
    let a = take(&store, named("web", "a"), &image(&A)).unwrap();
    let b = take(&store, named("web", "b").parent(Some(a)), &image(&B)).unwrap();
    (tree, store, a, b)
}

fn cached(store: &Store, of: SnapshotRef) -> Option<Vec<u8>> {
    let cached = store.cached_image(of.id).unwrap()?;
    let mut bytes = vec![0; usize::try_from(cached.len_bytes()).unwrap()];
    cached.file().read_exact_at(0, &mut bytes).unwrap();
    Some(bytes)
}

fn in_cache(tree: &MemBackend) -> Vec<String> {
    let entries = tree.list(&path("cache")).unwrap();
    entries.into_iter().map(|entry| entry.name).collect()
}

// spec: CAC-01
// spec: CAC-03
#[test]
fn an_image_is_built_once_and_is_the_memory_of_its_snapshot() {
    let (tree, store, a, b) = chain();
    assert_eq!(cached(&store, b), None);
    let control = CaptureControl::default();
    let job = store.warm_job(b.id, control.clone());
    let report = std::thread::spawn(move || job.run()).join().unwrap();
    let report = report.unwrap();
    assert!(report.built);
    assert_eq!(report.file, format!("cache/{}.img", b.id));
    assert_eq!(cached(&store, b), Some(image(&B)));
    assert!(!store.warm(b.id, &control).unwrap().built);
    assert_eq!(cached(&store, a), None);
    // A layout of its own changes nothing; neither does opening the store again.
    let store = reopen(&tree);
    assert_eq!(cached(&store, b), Some(image(&B)));
    assert!(verify(&store, Selection::All).ok);
    let open = store.cached_image(b.id).unwrap().unwrap();
    assert!(store.drop_cached(b.id).unwrap());
    assert!(!store.drop_cached(b.id).unwrap());
    assert_eq!(cached(&store, b), None);
    let mut first = [0];
    open.file().read_exact_at(0, &mut first).unwrap();
    assert_eq!(first, [1]);
    assert!(in_cache(&tree).is_empty());
}

// spec: CAC-02
#[test]
fn what_is_damaged_is_not_built_from_and_what_became_damaged_is_reported() {
    let (tree, store, a, b) = chain();
    let data = path(&format!("snapshots/{}/memory.img", a.id));
    let copy = tree.snapshot();
    copy.tamper(&data, |bytes| bytes[0] ^= 1).unwrap();
    let refused = reopen(&copy).warm(b.id, &CaptureControl::default());
    assert_eq!(kind(refused), Some(ErrorKind::Corrupt));
    assert!(in_cache(&copy).is_empty());
    store.warm(b.id, &CaptureControl::default()).unwrap();
    let name = path(&format!("cache/{}.img", b.id));
    for at in 0..8 * rig::PAGE {
        if at % 997 != 0 {
            continue;
        }
        let copy = tree.snapshot();
        copy.tamper(&name, |bytes| bytes[at] ^= 1).unwrap();
        let report = verify(&reopen(&copy), Selection::One(b.id));
        assert_eq!(report.errors.len(), 1, "{at}: {:?}", report.errors);
        assert_eq!(report.errors[0].file.as_deref(), Some(name.as_str()));
        assert_eq!(report.errors[0].kind, ErrorKind::Corrupt);
    }
    tree.tamper(&name, |bytes| bytes.truncate(5)).unwrap();
    assert_eq!(kind(store.cached_image(b.id)), Some(ErrorKind::Corrupt));
    assert!(!verify(&store, Selection::All).ok);
    // It was never needed.
    assert_eq!(rig::restored(&store, b).unwrap(), image(&B));
    assert!(store.drop_cached(b.id).unwrap());
    assert!(verify(&store, Selection::All).ok);
}

// spec: CAC-03
// spec: CAC-04
#[test]
fn work_that_fails_or_is_broken_off_leaves_nothing() {
    let (tree, store, _, b) = chain();
    let cancel = Cancel::default();
    cancel.ask();
    let control = CaptureControl::default()
        .cancel(cancel)
        .bytes_per_second(NonZeroU64::new(1));
    let stopped = store.warm(b.id, &control);
    assert_eq!(kind(stopped), Some(ErrorKind::Interrupted));
    assert!(in_cache(&tree).is_empty());
    let warm = |backend: &FaultBackend| {
        let store = Store::open(Arc::new(backend.clone()), &options())?;
        store.warm(b.id, &CaptureControl::default())
    };
    let whole = FaultBackend::new(&tree);
    warm(&whole).unwrap();
    for number in 1..=whole.calls().len() {
        for fault in [
            Fault::Error(std::io::ErrorKind::StorageFull),
            Fault::Errno(5),
        ] {
            let backend = FaultBackend::new(&tree);
            backend.fail_at(number, fault);
            let done = warm(&backend);
            let live = backend.live();
            let store = reopen(&live);
            match cached(&store, b) {
                Some(bytes) => assert_eq!(bytes, image(&B), "{number}"),
                None => assert!(done.is_err(), "{number}"),
            }
            assert!(in_cache(&live).len() <= 1, "{number}");
            assert!(verify(&store, Selection::All).ok, "{number}");
        }
    }
}

// spec: CAC-04
#[test]
fn leftovers_and_images_of_deleted_snapshots_go_when_the_store_is_opened() {
    let (tree, store, a, b) = chain();
    for at in [a, b] {
        store.warm(at.id, &CaptureControl::default()).unwrap();
    }
    tree.create(&path(&format!("cache/.{}.img.new", a.id)))
        .unwrap();
    tree.create(&path("cache/notes")).unwrap();
    store.delete(&store.plan_delete(b.id).unwrap()).unwrap();
    reopen(&tree);
    assert_eq!(
        in_cache(&tree),
        [format!("{}.img", a.id), "notes".to_owned()]
    );
}
