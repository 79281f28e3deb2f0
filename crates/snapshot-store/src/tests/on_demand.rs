//! Images whose data files are opened when they are wanted, while everything around them changes.

use std::sync::Arc;

use super::rig::{PAGE, image, kind, named, options, path, store, take};
use crate::{ErrorKind, Store, StoreError, StoredImage};
use snapshot_format::{DataLayout, PageRange, SnapshotRef};
use snapshot_memory::backend::{Backend, FsBackend, MemBackend};
use snapshot_memory::{FrameCodec, ImageError, RelayoutOptions};

const A: [u8; 8] = [1, 2, 3, 4, 5, 6, 7, 8];
const B: [u8; 8] = [1, 2, 3, 4, 5, 6, 9, 9];
const C: [u8; 8] = [1, 2, 3, 4, 5, 6, 9, 10];

/// Three levels: page 0 is of the first, 6 of the second, 7 of the third.
fn chain(store: &Store) -> [SnapshotRef; 3] {
    let a = take(store, named("web", "a"), &image(&A)).unwrap();
    let b = take(store, named("web", "b").parent(Some(a)), &image(&B)).unwrap();
    let c = take(store, named("web", "c").parent(Some(b)), &image(&C)).unwrap();
    [a, b, c]
}

fn page(stored: &StoredImage, page: u64) -> Result<u8, StoreError> {
    let mut bytes = vec![0; PAGE];
    stored
        .image()
        .read_pages(PageRange::new(page, 1), &mut bytes)?;
    Ok(bytes[0])
}

fn name(of: SnapshotRef, file: &str) -> String {
    format!("snapshots/{}/{file}", of.id)
}

// spec: STO-31
#[test]
fn a_data_file_is_checked_before_its_first_byte_is_used_and_not_before_that() {
    type Damage = fn(&MemBackend, &str, &str);
    let (tree, store) = store();
    let [a, b, c] = chain(&store);
    let damages: [(&str, Damage); 5] = [
        ("is missing", |tree, map, _| {
            tree.remove_file(&path(map)).unwrap();
        }),
        ("is missing", |tree, _, data| {
            tree.remove_file(&path(data)).unwrap();
        }),
        ("it was cut", |tree, _, data| {
            tree.tamper(&path(data), |bytes| bytes.truncate(PAGE))
                .unwrap();
        }),
        ("is damaged", |tree, map, _| {
            tree.tamper(&path(map), |bytes| bytes[20] ^= 1).unwrap();
        }),
        ("digest", |tree, _, data| {
            tree.tamper(&path(data), |bytes| bytes.reverse()).unwrap();
        }),
    ];
    for (says, damage) in damages {
        let copy = tree.snapshot();
        let store = Store::open(Arc::new(copy.clone()), &options()).unwrap();
        let stored = store.image(c.id).unwrap();
        let (map, data) = (name(a, "memory.map"), name(a, "memory.img"));
        damage(&copy, &map, &data);
        // What does not need the first level reads on.
        assert_eq!(
            (page(&stored, 6).unwrap(), page(&stored, 7).unwrap()),
            (9, 10)
        );
        for _ in 0..2 {
            let error = page(&stored, 0).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
            assert!(error.to_string().contains(says), "{error}");
            assert!([&map, &data].iter().any(|file| error.path() == Some(file)));
        }
        assert_eq!(page(&stored, 6).unwrap(), 9);
    }
    // The map of another snapshot in the place of the one that is named.
    let other = super::rig::read(&tree, &path(&name(b, "memory.map")));
    let stored = store.image(c.id).unwrap();
    let place = path(&name(a, "memory.map"));
    let own = super::rig::read(&tree, &place);
    tree.tamper(&place, |bytes| bytes.clone_from(&other))
        .unwrap();
    let error = page(&stored, 0).unwrap_err();
    let StoreError::Image { source } = &error else {
        unreachable!("{error}");
    };
    assert!(matches!(**source, ImageError::OtherMap { .. }), "{error}");
    // A file that was put back is found by the next who wants it.
    tree.tamper(&place, |bytes| bytes.clone_from(&own)).unwrap();
    assert_eq!(page(&stored, 0).unwrap(), 1);
}

// spec: STO-31
#[test]
fn files_that_move_after_an_image_is_open_are_found() {
    let (_, store) = store();
    let [a, b, c] = chain(&store);
    let delete = |at: SnapshotRef| {
        store
            .plan_delete(at.id)
            .and_then(|plan| store.delete(&plan))
    };
    delete(a).unwrap();
    let stored = store.image(c.id).unwrap();
    assert_eq!(kind(delete(b)), Some(ErrorKind::Refused));
    // Nothing was opened yet.
    store.undelete(a.id).unwrap();
    assert_eq!(page(&stored, 0).unwrap(), 1);
    drop(stored);
    delete(a).unwrap();
    delete(b).unwrap();
    let stored = store.image(c.id).unwrap();
    let pages = [page(&stored, 0), page(&stored, 6), page(&stored, 7)];
    assert_eq!(pages.map(Result::unwrap), [1, 9, 10]);
}

/// Everything that can be done to a snapshot under a running clone of it.
fn relayout_under_a_clone(backend: Arc<dyn Backend>) {
    let store = Store::create(backend, &options()).unwrap();
    let chain = chain(&store);
    let c = chain[2];
    // One clone has read nothing yet, one has a file open, one came after each change.
    let mut clones = vec![store.image(c.id).unwrap(), store.image(c.id).unwrap()];
    assert_eq!(page(&clones[1], 6).unwrap(), 9);
    let open = {
        let file = clones[1].image().file(2).unwrap();
        file.reference()
    };
    for layout in [DataLayout::Packed, DataLayout::Frames, DataLayout::Sparse] {
        for at in chain {
            let options = match layout {
                DataLayout::Frames => RelayoutOptions::compressed(FrameCodec::Lz4),
                layout => RelayoutOptions::of(layout),
            };
            store.relayout(at.id, &options).unwrap();
            for at in chain {
                let deleted = store
                    .plan_delete(at.id)
                    .and_then(|plan| store.delete(&plan));
                assert_eq!(kind(deleted), Some(ErrorKind::Refused));
            }
            clones.push(store.image(c.id).unwrap());
            for clone in &clones {
                for (at, fill) in (0..).zip(C) {
                    assert_eq!(page(clone, at).unwrap(), fill);
                }
            }
        }
    }
    // Who was there before reads the files from before.
    assert_eq!(clones[1].image().file(2).unwrap().reference(), open);
    assert_eq!(clones[0].image().file(3).unwrap().reference().index, 0);
    let chosen = store.detail(c.id).unwrap();
    assert!(chosen.generation >= 3, "{chosen:?}");
    assert_eq!(
        clones.last().unwrap().image().references(),
        chosen.dependencies
    );
}

// spec: STO-27
#[test]
fn new_layouts_under_running_clones_change_nothing_for_them_in_memory() {
    relayout_under_a_clone(Arc::new(MemBackend::new()));
}

// spec: STO-27
#[test]
fn new_layouts_under_running_clones_change_nothing_for_them_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    relayout_under_a_clone(Arc::new(FsBackend::open(dir.path()).unwrap()));
}
