//! What vouches for a merged file: the manifests of those that its pages came from.

use super::rig::{image, kind, named, staged_of, store, take, verify};
use crate::consolidation;
use crate::directory::Location;
use crate::{ErrorKind, GarbageOptions, KeptFiles, Selection, Store};
use snapshot_format::SnapshotRef;
use snapshot_memory::{ConsolidateOptions, Stability, StagedPlacement};

/// A full snapshot with digests of sixteen pages.
fn base(store: &Store, name: &str, fills: &[u8]) -> SnapshotRef {
    let stage = staged_of(store, named("web", name), &image(fills), Stability::Paused);
    stage.unwrap().seal().unwrap().publish().unwrap().snapshot
}

fn child(store: &Store, name: &str, parent: SnapshotRef, fills: &[u8]) -> SnapshotRef {
    take(
        store,
        named("web", name).parent(Some(parent)),
        &image(fills),
    )
    .unwrap()
}

/// Consolidates `of` with pages out of the memory of `from`: a defect of whoever writes a merged file,
/// of which no digest in it tells.
fn merge_from(store: &Store, of: SnapshotRef, from: SnapshotRef) {
    let begun = store.begin_placement(of.id, |placed| store.open_chain(placed));
    let (lock, _lease, chain) = begun.unwrap();
    let folder = Location::Live.directory();
    let staged = StagedPlacement::begin(store.shared_backend(), folder, of.id);
    let (mut staged, options) = (staged.unwrap(), ConsolidateOptions::default());
    let index = store.free_index(&chain.before).unwrap();
    let wrong = store.image(from.id).unwrap();
    let written = staged.consolidate(wrong.image(), &chain.own, 0, index, &options);
    let mut after = consolidation::successor(&chain.before, 0, index, &written.unwrap(), 2);
    after.files.extend(staged.files());
    after
        .files
        .sort_by_key(|file| (file.kind.number(), file.index));
    let sealed = staged.seal(after).unwrap();
    lock.publish(sealed, &chain.before).unwrap();
}

// spec: CON-09
#[test]
fn a_page_of_another_memory_is_found_whoever_wrote_it() {
    // What is inherited of a base, of the one above it, and what is zero here or there.
    for other in [
        [1, 2, 0, 4, 5, 6, 7, 9],
        [1, 2, 0, 4, 5, 9, 7, 8],
        [1, 2, 9, 4, 5, 6, 7, 8],
        [1, 2, 0, 4, 0, 6, 7, 8],
        [1, 2, 0, 4, 5, 6, 7, 8],
    ] {
        let (_, store) = store();
        let a = base(&store, "a", &[1, 2, 0, 4, 5, 1, 7, 8]);
        let b = child(&store, "b", a, &[1, 2, 0, 4, 5, 6, 7, 8]);
        let mut fills = [1, 2, 0, 4, 5, 6, 7, 8];
        fills[0] = 10;
        let c = child(&store, "c", b, &fills);
        let mut there = other;
        there[0] = 10;
        let root = base(&store, "x", &other);
        let from = child(&store, "y", root, &there);
        merge_from(&store, c, from);
        // It inherits what is wrong.
        let mut below = there;
        below[1] = 11;
        let d = child(&store, "d", c, &below);
        let report = verify(&store, Selection::All);
        if there == fills {
            assert!(report.ok, "{:?}", report.errors);
            assert_eq!(report.unbound_pages, 0);
            continue;
        }
        let wrong: Vec<_> = report.errors.iter().map(|one| one.snapshot).collect();
        assert_eq!(wrong, [c.id, d.id], "{other:?}: {:?}", report.errors);
        for error in &report.errors {
            assert_eq!(error.kind, ErrorKind::Corrupt);
            assert!(error.message.contains("guest page 0x"), "{}", error.message);
        }
    }
}

// spec: CON-09
#[test]
fn pages_whose_manifests_are_gone_are_counted() {
    let (_, store) = store();
    let a = base(&store, "a", &[1, 2, 0, 4, 5, 1, 7, 8]);
    let b = child(&store, "b", a, &[1, 2, 0, 4, 5, 6, 7, 8]);
    let c = child(&store, "c", b, &[10, 2, 0, 4, 5, 6, 7, 0]);
    let options = ConsolidateOptions::default();
    store.consolidate(c.id, KeptFiles::None, &options).unwrap();
    let bound = verify(&store, Selection::All);
    assert!(bound.ok && bound.unbound_pages == 0, "{:?}", bound.errors);
    let remove = |gone: SnapshotRef| {
        store.delete(&store.plan_delete(gone.id).unwrap()).unwrap();
        store.collect(&GarbageOptions::default()).unwrap();
    };
    // The base is needed by the second one: all is there.
    remove(a);
    assert_eq!(verify(&store, Selection::All).unbound_pages, 0);
    remove(b);
    assert_eq!(kind(store.undelete(a.id)), Some(ErrorKind::NotFound));
    // Of its own it has one that is stored and one that is zero.
    let left = verify(&store, Selection::All);
    assert!(left.ok, "{:?}", left.errors);
    assert_eq!(left.unbound_pages, 6);
}
