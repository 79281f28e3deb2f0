//! Defects of other stores in taking memory and bringing it back, which this one is kept from having.

use super::rig::{
    Guest, PAGE, PAGES, image, kind, named, path, reopen, restored, store, take, verify,
};
use crate::{ErrorKind, NewSnapshot, Selection, Store, StoreStage};
use snapshot_format::{DataLayout, PageIndex, SnapshotRef};
use snapshot_memory::backend::{Backend, MemBackend};
use snapshot_memory::{
    CaptureOptions, DirtyBitmap, FrameCodec, LayoutChoice, Pages, RelayoutOptions, Stability,
};

/// A guest that was brought back, and the pages that it wrote since: nothing compares memory here.
struct Resumed {
    base: SnapshotRef,
    memory: Vec<u8>,
    dirty: DirtyBitmap,
}

impl Resumed {
    fn of(store: &Store, base: SnapshotRef) -> Self {
        Self {
            base,
            memory: restored(store, base).unwrap(),
            dirty: DirtyBitmap::new(PAGES),
        }
    }

    fn write(&mut self, page: usize, fill: u8) {
        self.memory[page * PAGE..][..PAGE].fill(fill);
        self.dirty.set(PageIndex(page as u64));
    }

    /// Memory written, and nothing published.
    fn pause(&self, store: &Store, new: NewSnapshot) -> StoreStage {
        let mut stage = store.sink(new.parent(Some(self.base))).stage().unwrap();
        let pages = Pages::Since {
            base: self.base,
            dirty: &self.dirty,
        };
        let guest = Guest::new(&self.memory);
        stage.memory(&guest, pages, Stability::Paused).unwrap();
        stage
    }
}

fn published(stage: StoreStage) -> SnapshotRef {
    stage.seal().unwrap().publish().unwrap().snapshot
}

// spec: MAP-01
#[test]
fn firecracker_2802_a_page_that_became_zero_is_zero_in_whatever_layout() {
    let sparse = CaptureOptions::default().layout(LayoutChoice::Sparse);
    let (_, store) = store();
    let base = named("web", "a").capture(sparse.clone());
    let base = take(&store, base, &image(&[7; 8])).unwrap();
    let mut guest = Resumed::of(&store, base);
    guest.write(2, 0);
    guest.write(5, 0);
    guest.write(6, 9);
    let child = guest.pause(&store, named("web", "b").capture(sparse));
    let child = published(child);
    let mut guest = Resumed::of(&store, child);
    guest.write(5, 1);
    let grandchild = published(guest.pause(&store, named("web", "c")));
    let layouts = [
        RelayoutOptions::of(DataLayout::Packed),
        RelayoutOptions::compressed(FrameCodec::Lz4),
        RelayoutOptions::of(DataLayout::Sparse),
    ];
    for layout in layouts {
        for reference in [child, base] {
            store.relayout(reference.id, &layout).unwrap();
        }
        let found = restored(&store, child).unwrap();
        assert!(found == image(&[7, 7, 0, 7, 7, 0, 9, 7]), "{layout:?}");
        let found = restored(&store, grandchild).unwrap();
        assert!(found == image(&[7, 7, 0, 7, 7, 1, 9, 7]), "{layout:?}");
    }
}

/// Removes a snapshot as no command does.
fn lose(tree: &MemBackend, reference: SnapshotRef) {
    let folder = path(&format!("snapshots/{}", reference.id));
    for entry in tree.list(&folder).unwrap() {
        tree.remove_file(&folder.join(&entry.name).unwrap())
            .unwrap();
    }
    tree.remove_dir(&folder).unwrap();
}

// spec: STO-19
#[test]
fn hypeman_146_a_diff_whose_base_is_lost_or_another_one_is_never_whole() {
    let (tree, store) = store();
    let base = take(&store, named("web", "a"), &image(&[7; 8])).unwrap();
    let mut guest = Resumed::of(&store, base);
    guest.write(1, 8);
    let child = published(guest.pause(&store, named("web", "b")));
    let whole = tree.snapshot();
    // Another snapshot in the place of the base, sound in itself.
    let (other, donor) = super::rig::store();
    let alien = take(&donor, named("web", "a"), &image(&[3; 8])).unwrap();
    let file = |tree: &MemBackend, of: SnapshotRef, name: &str| {
        super::rig::read(tree, &path(&format!("snapshots/{}/{name}", of.id)))
    };
    for name in ["memory.map", "memory.img"] {
        let bytes = file(&other, alien, name);
        let place = path(&format!("snapshots/{}/{name}", base.id));
        tree.tamper(&place, |old| *old = bytes).unwrap();
    }
    let store = reopen(&tree);
    assert_eq!(kind(restored(&store, child)), Some(ErrorKind::Corrupt));
    assert!(!verify(&store, Selection::One(child.id)).ok);
    lose(&whole, base);
    let store = reopen(&whole);
    assert_eq!(kind(restored(&store, child)), Some(ErrorKind::Corrupt));
    assert!(!verify(&store, Selection::One(child.id)).ok);
    // Nor is a child made of what is not whole.
    let guest = Resumed {
        base: child,
        memory: image(&[7; 8]),
        dirty: DirtyBitmap::new(PAGES),
    };
    let mut stage = store
        .sink(named("web", "c").parent(Some(child)))
        .stage()
        .unwrap();
    let pages = Pages::Since {
        base: child,
        dirty: &guest.dirty,
    };
    let memory = Guest::new(&guest.memory);
    let written = stage.memory(&memory, pages, Stability::Paused);
    let taken = written.and_then(|_| stage.seal()?.publish().map(drop));
    assert!(kind(taken).is_some(), "a child of what is lost");
    assert_eq!(store.list(None).unwrap().snapshots.len(), 1);
}

// spec: STO-26
#[test]
fn e2b_884_and_1104_every_generation_of_pauses_and_resumes_has_every_change() {
    let (tree, store) = store();
    let first = image(&[1, 0, 3, 0, 5, 6, 7, 8]);
    let mut all = vec![(take(&store, named("web", "g0"), &first).unwrap(), first)];
    drop(store);
    for generation in 1..=9_u8 {
        // Each in a process of its own.
        let store = reopen(&tree);
        let (base, memory) = all.last().unwrap().clone();
        let mut guest = Resumed::of(&store, base);
        assert!(guest.memory == memory, "resumed from {}", generation - 1);
        // One page each time, one in turn, one to and from zero; nothing at all in the fourth.
        if generation != 4 {
            guest.write(0, generation);
            guest.write(usize::from(generation) % 8, 100 + generation);
            guest.write(3, generation % 2);
        }
        // A pause that comes to nothing takes no change with it.
        drop(guest.pause(&store, named("web", "lost")));
        if generation % 3 == 0 {
            guest.write(6, 200 + generation);
        }
        let name = format!("g{generation}");
        let taken = published(guest.pause(&store, named("web", &name)));
        all.push((taken, guest.memory));
    }
    let store = reopen(&tree);
    for (generation, (reference, memory)) in all.iter().enumerate() {
        let found = restored(&store, *reference).unwrap();
        assert!(found == *memory, "generation {generation}");
    }
    assert!(verify(&store, Selection::All).ok);
}
