//! What a stage does before the machine is stopped.

use std::sync::Arc;

use snapshot_format::{MemoryLayout, PAGE_BYTES, SnapshotRef};
use snapshot_memory::backend::{Backend, FaultBackend};
use snapshot_memory::{Cancel, DirtyBitmap, MemoryPlan, Pages, Stability};

use super::rig::{self, Guest, PAGES, image, kind, named, options, path, store, take};
use crate::{ErrorKind, Store, StoreStage};

const A: [u8; 8] = [1, 2, 3, 4, 5, 6, 7, 8];

fn stage(store: &Store, parent: SnapshotRef) -> StoreStage {
    let new = named("web", "diff").parent(Some(parent));
    store.sink(new).stage().unwrap()
}

/// Prepares for a diff of one page against `base`.
fn prepare(stage: &mut StoreStage, base: SnapshotRef, pages: u64) -> Option<ErrorKind> {
    let layout = MemoryLayout::single(pages * PAGE_BYTES).unwrap();
    kind(stage.prepare(MemoryPlan {
        layout: &layout,
        base: Some(base),
        bytes: PAGE_BYTES,
        cancel: &Cancel::default(),
    }))
}

// spec: PUB-14
#[test]
fn a_diff_that_is_prepared_opens_no_file_of_the_parent_any_more() {
    let guest = Guest::new(&image(&[9; 8]));
    let dirty = DirtyBitmap::all_set(PAGES);
    for prepared in [true, false] {
        let (tree, store) = store();
        let base = take(&store, named("web", "base"), &image(&A)).unwrap();
        let mut stage = stage(&store, base);
        if prepared {
            assert_eq!(prepare(&mut stage, base, PAGES), None);
        }
        for name in ["memory.map", "memory.img", "place.1.vms"] {
            let file = path(&format!("snapshots/{}/{name}", base.id));
            tree.remove_file(&file).unwrap();
        }
        let pages = Pages::Since {
            base,
            dirty: &dirty,
        };
        let written = stage.memory(&guest, pages, Stability::Paused);
        assert_eq!(written.is_ok(), prepared);
    }
}

// spec: PUB-14
#[test]
fn what_would_fail_in_the_pause_is_refused_before_it() {
    let (tree, store) = store();
    let base = take(&store, named("web", "base"), &image(&A)).unwrap();
    let other = take(&store, named("web", "other"), &image(&A)).unwrap();
    let refused = |base, pages| prepare(&mut stage(&store, other), base, pages);
    assert_eq!(refused(other, PAGES), None);
    assert_eq!(refused(base, PAGES), Some(ErrorKind::Incompatible));
    // Memory that was plugged since is none of that.
    assert_eq!(refused(other, PAGES + 1), None);
    // Each byte of the map that a diff reads, of a leaf as well as of the root.
    let map = path(&format!("snapshots/{}/memory.map", other.id));
    let len = tree.open(&map).unwrap().len().unwrap();
    let mut found = 0;
    for at in (0..len).step_by(97) {
        let flip = |bytes: &mut Vec<u8>| bytes[usize::try_from(at).unwrap()] ^= 1;
        tree.tamper(&map, flip).unwrap();
        let damage = refused(other, PAGES);
        assert!([None, Some(ErrorKind::Corrupt), Some(ErrorKind::TooNew)].contains(&damage));
        found += usize::from(damage.is_some());
        tree.tamper(&map, flip).unwrap();
    }
    assert!(found > 0, "no damage was found");
    assert_eq!(store.list(None).unwrap().snapshots.len(), 2);
}

// spec: PUB-14
#[test]
fn a_store_without_room_says_so_before_anything_is_written() {
    let (tree, store) = store();
    let base = take(&store, named("web", "base"), &image(&A)).unwrap();
    drop(store);
    let disk = FaultBackend::new(&tree.snapshot());
    let store = Store::open(Arc::new(disk.clone()), &options()).unwrap();
    let mut stage = stage(&store, base);
    disk.limit_bytes(PAGE_BYTES);
    let before = disk.call_count();
    assert_eq!(prepare(&mut stage, base, PAGES), Some(ErrorKind::NoSpace));
    assert_eq!(disk.call_count(), before);
    drop(stage);
    assert_eq!(rig::verify(&store, crate::Selection::All).errors.len(), 0);
}
