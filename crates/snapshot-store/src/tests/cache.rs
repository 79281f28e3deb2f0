//! Materialised images: built, found, dropped, broken off, interrupted, damaged.

use std::num::NonZeroU64;
use std::panic;
use std::sync::Arc;
use std::thread;

use super::rig::{
    A, PAGE, image, kind, named, names, one, options, path, reopen, restored, take, verify,
    with_each_call_failing,
};
use crate::{ErrorKind, Location, Selection, Store, StoreError, WarmReport};
use snapshot_format::{SnapshotId, SnapshotRef};
use snapshot_memory::backend::{Backend, Fault, FaultBackend, MemBackend, Planted};
use snapshot_memory::{Cancel, CaptureControl};

mod background;

const B: [u8; 8] = [1, 9, 0, 0, 5, 6, 7, 8];

fn chain() -> (MemBackend, Store, SnapshotRef, SnapshotRef) {
    let (tree, store, a) = one();
    let b = take(&store, named("web", "b").parent(Some(a)), &image(&B)).unwrap();
    (tree, store, a, b)
}

fn warm(store: &Store, of: SnapshotRef) -> Result<WarmReport, StoreError> {
    store.warm(of.id, &CaptureControl::default())
}

fn cached(store: &Store, of: SnapshotRef) -> Option<Vec<u8>> {
    let cached = store.cached_image(of.id).unwrap()?;
    let mut bytes = vec![0; usize::try_from(cached.len_bytes()).unwrap()];
    cached.file().read_exact_at(0, &mut bytes).unwrap();
    Some(bytes)
}

fn in_cache(tree: &MemBackend) -> Vec<String> {
    names(tree, "cache")
}

/// Names of lock files of the cache.
fn cache_locks(tree: &MemBackend) -> usize {
    let locks = names(tree, "locks");
    locks
        .iter()
        .filter(|name| name.starts_with("cache."))
        .count()
}

// spec: CAC-01
// spec: CAC-03
#[test]
fn an_image_is_built_once_and_is_the_memory_of_its_snapshot() {
    let (tree, store, a, b) = chain();
    assert_eq!(cached(&store, b), None);
    let report = warm(&store, b).unwrap();
    assert!(report.built);
    assert_eq!(report.file, format!("cache/{}.img", b.id));
    assert_eq!(
        (report.shared_bytes, report.copied_bytes),
        (0, 6 * PAGE as u64)
    );
    assert_eq!(cached(&store, b), Some(image(&B)));
    let again = warm(&store, b).unwrap();
    assert!(!again.built);
    assert_eq!((again.shared_bytes, again.copied_bytes), (0, 0));
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

// spec: CAC-05
#[test]
fn blocks_are_shared_where_files_can_and_the_report_says_how_many() {
    let (tree, store, a, b) = chain();
    tree.set_shares_blocks(true);
    let pages = |pages: u64| pages * PAGE as u64;
    // Its six pages are in runs of one, one and four.
    let report = warm(&store, a).unwrap();
    assert_eq!(
        (report.shared_bytes, report.copied_bytes),
        (pages(4), pages(2))
    );
    assert_eq!(cached(&store, a), Some(image(&A)));
    let report = warm(&store, b).unwrap();
    assert_eq!(
        (report.shared_bytes, report.copied_bytes),
        (pages(4), pages(2))
    );
    assert_eq!(cached(&store, b), Some(image(&B)));
    assert!(verify(&store, Selection::All).ok);
    // What is damaged is found before it is shared under a name.
    let data = path(&format!("snapshots/{}/memory.img", a.id));
    for page in 4..8 {
        let copy = tree.snapshot();
        copy.tamper(&data, |bytes| bytes[page * PAGE] ^= 1).unwrap();
        let store = reopen(&copy);
        store.drop_cached(b.id).unwrap();
        assert_eq!(kind(warm(&store, b)), Some(ErrorKind::Corrupt), "{page}");
        assert_eq!(in_cache(&copy), [format!("{}.img", a.id)], "{page}");
    }
}

// spec: CAC-02
#[test]
fn what_is_damaged_is_not_built_from_and_what_became_damaged_is_reported() {
    let (tree, store, a, b) = chain();
    let data = path(&format!("snapshots/{}/memory.img", a.id));
    let copy = tree.snapshot();
    copy.tamper(&data, |bytes| bytes[0] ^= 1).unwrap();
    let refused = warm(&reopen(&copy), b);
    assert_eq!(kind(refused), Some(ErrorKind::Corrupt));
    assert!(in_cache(&copy).is_empty());
    warm(&store, b).unwrap();
    let name = path(&format!("cache/{}.img", b.id));
    for at in (0..8 * PAGE).step_by(997) {
        let copy = tree.snapshot();
        copy.tamper(&name, |bytes| bytes[at] ^= 1).unwrap();
        let report = verify(&reopen(&copy), Selection::One(b.id));
        assert_eq!(report.errors.len(), 1, "{at}: {:?}", report.errors);
        assert_eq!(report.errors[0].file.as_deref(), Some(name.as_str()));
        assert_eq!(report.errors[0].kind, ErrorKind::Corrupt);
        assert!(report.errors[0].hint.contains("build it again"));
    }
    tree.tamper(&name, |bytes| bytes.truncate(5)).unwrap();
    assert_eq!(kind(store.cached_image(b.id)), Some(ErrorKind::Corrupt));
    assert_eq!(kind(warm(&store, b)), Some(ErrorKind::Corrupt));
    assert!(!verify(&store, Selection::All).ok);
    // It was never needed.
    assert_eq!(restored(&store, b).unwrap(), image(&B));
    assert!(store.drop_cached(b.id).unwrap());
    assert!(verify(&store, Selection::All).ok);
}

// spec: CAC-02
#[test]
fn what_somebody_else_put_in_the_place_of_an_image_is_never_opened() {
    let (tree, _, a, b) = chain();
    let name = path(&format!("cache/{}.img", b.id));
    let plant: [fn(&MemBackend, &_); 3] = [
        |tree, name| tree.plant(name, Planted::SymbolicLink).unwrap(),
        |tree, name| tree.plant(name, Planted::Pipe).unwrap(),
        |tree, name| tree.create_dir(name).unwrap(),
    ];
    for plant in plant {
        let tree = tree.snapshot();
        plant(&tree, &name);
        let store = reopen(&tree);
        assert_eq!(kind(store.cached_image(b.id)), Some(ErrorKind::Corrupt));
        assert_eq!(kind(warm(&store, b)), Some(ErrorKind::Corrupt));
        assert!(!verify(&store, Selection::All).ok);
        assert_eq!(restored(&store, b).unwrap(), image(&B));
        store.usage().unwrap();
        // Others are built as ever.
        assert!(warm(&store, a).unwrap().built);
        // And what stands in the place of an unfinished one ends in an error at worst.
        let fresh = path(&format!("cache/.{}.img.new", b.id));
        tree.rename_noreplace(&name, &fresh).unwrap();
        let store = reopen(&tree);
        match warm(&store, b) {
            Ok(_) => assert_eq!(cached(&store, b), Some(image(&B))),
            Err(error) => assert!(cached(&store, b).is_none(), "{error}"),
        }
    }
}

// spec: CAC-06
#[test]
fn no_room_is_an_error_before_a_page_is_written() {
    let (tree, _, _, b) = chain();
    let pages = |pages: u64| pages * PAGE as u64;
    // The pages that can be shared are tried first, and count as written where nothing is shared
    // for free.
    for (limit, shares, needs, free) in [
        (pages(6) - 1, false, pages(6), pages(6) - 1),
        (0, false, pages(6), 0),
        (pages(6) - 1, true, pages(2), pages(2) - 1),
    ] {
        let tree = tree.snapshot();
        tree.set_shares_blocks(shares);
        let backend = FaultBackend::new(&tree);
        let store = Store::open(Arc::new(backend.clone()), &options()).unwrap();
        backend.limit_bytes(limit);
        let error = warm(&store, b).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        let is_told = matches!(
            error,
            StoreError::NoRoom { needed_bytes, free_bytes, .. }
                if (needed_bytes, free_bytes) == (needs, free)
        );
        assert!(is_told, "{error:?}");
        let calls = backend.calls();
        let written = calls.iter().filter(|call| call.operation == "write");
        assert_eq!(written.count(), usize::from(shares));
        assert!(in_cache(&backend.live()).is_empty());
        assert_eq!(cache_locks(&backend.live()), 0);
    }
    let backend = FaultBackend::new(&tree);
    let store = Store::open(Arc::new(backend.clone()), &options()).unwrap();
    backend.limit_bytes(pages(6));
    assert!(warm(&store, b).unwrap().built);
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
    for shares in [false, true] {
        tree.set_shares_blocks(shares);
        with_each_call_failing(
            &tree,
            |store| warm(store, b),
            |done, live, call| {
                let store = reopen(live);
                match cached(&store, b) {
                    Some(bytes) => assert_eq!(bytes, image(&B), "{call}"),
                    None => assert!(done.is_err(), "{call}"),
                }
                assert!(in_cache(live).len() <= 1, "{call}");
                assert_eq!(cache_locks(live), 0, "{call}");
                assert!(verify(&store, Selection::All).ok, "{call}");
            },
        );
    }
}

// spec: CAC-06
#[test]
fn a_disk_that_is_full_half_way_is_cleaned_up_at_once() {
    let (tree, _, _, b) = chain();
    let whole = FaultBackend::new(&tree);
    let opened = |backend: &FaultBackend| {
        let store = Store::open(Arc::new(backend.clone()), &options());
        warm(&store.unwrap(), b)
    };
    opened(&whole).unwrap();
    let writes = (1..).zip(whole.calls());
    let writes =
        writes.filter(|(_, call)| call.operation == "write" && call.path.contains("cache"));
    let (enospc, edquot) = (28, 122);
    let mut tried = 0;
    for ((number, _), errno) in writes.zip([enospc, edquot].into_iter().cycle()) {
        let backend = FaultBackend::new(&tree);
        backend.fail_at(number, Fault::Partial { bytes: 100, errno });
        assert_eq!(kind(opened(&backend)), Some(ErrorKind::NoSpace), "{number}");
        assert!(in_cache(&backend.live()).is_empty(), "{number}");
        tried += 1;
    }
    assert!(tried >= 2, "{tried}");
}

// spec: CAC-04
#[test]
fn leftovers_and_images_of_deleted_snapshots_go_when_the_store_is_opened() {
    let (tree, store, a, b) = chain();
    let image_of = |id: SnapshotId| format!("{id}.img");
    for at in [a, b] {
        warm(&store, at).unwrap();
    }
    for name in [
        format!("cache/.{}.img.new", a.id),
        format!("locks/cache.{}", b.id),
        "cache/notes".to_owned(),
    ] {
        tree.create(&path(&name)).unwrap();
    }
    // Somebody builds it at this moment.
    let lock = path(&format!("locks/cache.{}", b.id));
    let exclusive = snapshot_memory::backend::LockMode::Exclusive;
    let held = tree.lock(&lock, exclusive, std::time::Duration::ZERO);
    store.delete(&store.plan_delete(b.id).unwrap()).unwrap();
    let notes = "notes".to_owned();
    assert!(in_cache(&tree).contains(&image_of(b.id)));
    reopen(&tree);
    let mut left = vec![image_of(a.id), image_of(b.id)];
    left.sort_unstable();
    left.push(notes.clone());
    assert_eq!(in_cache(&tree), left);
    drop(held);
    reopen(&tree);
    assert_eq!(in_cache(&tree), [image_of(a.id), notes]);
    assert_eq!(cache_locks(&tree), 0);
}

// spec: CAC-07
#[test]
fn deleting_a_snapshot_frees_its_image_and_the_cache_is_counted() {
    let (tree, store, a, b) = chain();
    assert_eq!(store.usage().unwrap().cache_bytes, 0);
    for at in [a, b] {
        warm(&store, at).unwrap();
    }
    tree.create(&path("cache/notes")).unwrap();
    let usage = store.usage().unwrap();
    let six_pages = 6 * PAGE as u64;
    assert_eq!(usage.cache_bytes, 2 * six_pages);
    let of = |at: SnapshotRef| {
        usage
            .cached
            .iter()
            .find(|file| file.id == Some(at.id))
            .unwrap()
    };
    for at in [a, b] {
        assert_eq!(of(at).file, format!("cache/{}.img", at.id));
        assert_eq!(
            (of(at).len_bytes, of(at).allocated_bytes),
            (8 * PAGE as u64, six_pages)
        );
    }
    assert_eq!(usage.cached.len(), 3);
    store.drop_cached(a.id).unwrap();
    assert_eq!(store.usage().unwrap().cache_bytes, six_pages);
    store.delete(&store.plan_delete(b.id).unwrap()).unwrap();
    assert_eq!(store.usage().unwrap().cache_bytes, 0);
    assert_eq!(in_cache(&tree), ["notes"]);
    // It is brought back without.
    store.undelete(b.id).unwrap();
    assert_eq!(cached(&store, b), None);
    assert!(warm(&store, b).unwrap().built);
    assert!(store.exists_at(Location::Live, b.id).unwrap());
}
