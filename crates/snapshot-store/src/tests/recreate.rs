//! A snapshot made anew from its parent, whatever fails on the way.

use super::rig::{
    A, image, kind, named, one, options, reopen, restored, take, verify, with_each_call_failing,
};
use crate::{ErrorKind, Location, Selection, Store};
use snapshot_format::{SnapshotRef, Tag};
use snapshot_memory::backend::{FaultBackend, MemBackend};
use std::sync::Arc;

const B: [u8; 8] = [1, 9, 0, 0, 5, 6, 7, 8];
const C: [u8; 8] = [2, 9, 0, 4, 5, 6, 7, 8];

/// `web/a`, `web/b` over it, and `web/c` over that.
fn chain() -> (MemBackend, Store, [SnapshotRef; 3]) {
    let (tree, store, a) = one();
    let mut new = named("web", "b").parent(Some(a));
    new.metadata.tags.insert(Tag::new("keep").unwrap());
    let b = take(&store, new, &image(&B)).unwrap();
    let c = take(&store, named("web", "c").parent(Some(b)), &image(&C)).unwrap();
    (tree, store, [a, b, c])
}

// spec: TRE-13
#[test]
fn the_new_one_has_the_place_and_the_memory_of_the_parent() {
    let (_, store, [a, b, c]) = chain();
    let report = store.recreate_from_parent(b.id).unwrap();
    assert_eq!((report.replaced, report.parent), (b.id, a.id));
    let made = store.snapshot(report.id).unwrap();
    assert_eq!((made.parent, made.seq), (Some(a), 4));
    assert_eq!(made.metadata.name, report.name);
    assert_eq!(store.resolve(&"web/b".parse().unwrap()).unwrap(), made.id);
    assert_eq!(made.metadata.tags.len(), 1);
    assert!(restored(&store, made.reference()).unwrap() == image(&A));
    // The old one is in the trash, and its child is whole.
    let trash = store.trash().unwrap().snapshots;
    assert_eq!(trash.iter().map(|one| one.id).collect::<Vec<_>>(), [b.id]);
    assert!(restored(&store, c).unwrap() == image(&C));
    assert!(verify(&store, Selection::All).ok);
}

// spec: TRE-13
#[test]
fn what_cannot_be_made_anew_is_refused_before_anything_is_written() {
    let (_, store, [a, b, _]) = chain();
    assert_eq!(
        kind(store.recreate_from_parent(a.id)),
        Some(ErrorKind::NotFound)
    );
    store
        .change_metadata(b.id, |metadata| metadata.protected = true)
        .unwrap();
    assert_eq!(
        kind(store.recreate_from_parent(b.id)),
        Some(ErrorKind::Refused)
    );
    store
        .change_metadata(b.id, |metadata| metadata.protected = false)
        .unwrap();
    store.delete(&store.plan_delete(a.id).unwrap()).unwrap();
    assert_eq!(
        kind(store.recreate_from_parent(b.id)),
        Some(ErrorKind::NotFound)
    );
    assert_eq!(store.list(None).unwrap().snapshots.len(), 2);
}

// spec: TRE-13
#[test]
fn no_failing_call_loses_either_of_them() {
    let (tree, _, [_, b, c]) = chain();
    let work = |store: &Store| store.recreate_from_parent(b.id).map(drop);
    let check = |after: &MemBackend, fault: &str| {
        let store = reopen(after);
        let is_live = store.exists_at(Location::Live, b.id).unwrap();
        let is_kept = store.exists_at(Location::Trash, b.id).unwrap();
        assert!(is_live != is_kept, "{fault}");
        assert!(restored(&store, c).unwrap() == image(&C), "{fault}");
        assert!(verify(&store, Selection::All).ok, "{fault}");
        if is_kept && store.resolve(&"web/b".parse().unwrap()).is_err() {
            store.undelete(b.id).unwrap();
        }
        if store.exists_at(Location::Live, b.id).unwrap() {
            assert!(restored(&store, b).unwrap() == image(&B), "{fault}");
        }
    };
    let whole = with_each_call_failing(&tree, work, |_, after, fault| check(after, fault));
    check(&whole, "no fault");
    let counted = FaultBackend::new(&tree);
    work(&Store::open(Arc::new(counted.clone()), &options()).unwrap()).unwrap();
    for number in 1..=counted.call_count() {
        let backend = FaultBackend::new(&tree);
        backend.cut_at(number);
        if let Ok(store) = Store::open(Arc::new(backend.clone()), &options()) {
            work(&store).unwrap_err();
        }
        for state in backend.crash_states() {
            check(&state.image, &format!("cut at {number}: {}", state.what));
        }
    }
}
