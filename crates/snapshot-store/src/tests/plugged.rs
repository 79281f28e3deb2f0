//! Memory that is plugged and unplugged between the snapshots of a chain.

use super::rig::{Guest, image, kind, named, reopen, restored, store, verify};
use crate::{ErrorKind, Selection, Store};
use snapshot_format::{
    DataLayout, GuestAddress, MemoryLayout, MemoryRegion, PAGE_BYTES, SnapshotRef,
};
use snapshot_memory::{
    CaptureOptions, ConsumerId, DirtyTracker, FrameCodec, LayoutChoice, Pages, RelayoutOptions,
    Stability, VmmWrites, WriteMarker,
};

fn layout(regions: &[(u64, u64)]) -> MemoryLayout {
    let region = |&(start, pages): &(u64, u64)| MemoryRegion {
        start: GuestAddress(start * PAGE_BYTES),
        len_bytes: pages * PAGE_BYTES,
    };
    MemoryLayout::new(regions.iter().map(region).collect()).unwrap()
}

/// A machine whose memory changes, and the snapshots of it.
struct Machine {
    store: Store,
    tracker: DirtyTracker,
    marker: WriteMarker,
    consumer: ConsumerId,
    taken: Vec<(SnapshotRef, Vec<u8>)>,
}

impl Machine {
    fn new(store: Store, layout: &MemoryLayout) -> Self {
        let (source, marker) = VmmWrites::new(layout.clone());
        let tracker = DirtyTracker::new(layout.clone(), vec![Box::new(source)]).unwrap();
        let consumer = tracker.subscribe(None);
        Self {
            store,
            tracker,
            marker,
            consumer,
            taken: Vec::new(),
        }
    }

    /// Takes a snapshot of memory whose pages are filled so; `written` are guest pages.
    fn take(&mut self, fill: &[u8], written: &[u64], choice: LayoutChoice) -> (u64, u64, u64) {
        for page in written {
            self.marker.mark_bytes(GuestAddress(page * PAGE_BYTES), 8);
        }
        let epoch = self.tracker.epoch(self.consumer).unwrap();
        let name = format!("s{}", self.taken.len());
        let new = named("web", &name).parent(epoch.base());
        let new = new.capture(CaptureOptions::default().layout(choice));
        let mut stage = self.store.sink(new).stage().unwrap();
        let bytes = image(fill);
        let guest = Guest::of_layout(epoch.layout(), &bytes);
        let stats = stage.memory(&guest, epoch.selection(), Stability::Paused);
        let stats = stats.unwrap();
        let published = stage.seal().unwrap().publish().unwrap().snapshot;
        epoch.commit(published).unwrap();
        self.taken.push((published, bytes));
        (stats.present, stats.zero, stats.inherited)
    }

    fn change(&self, layout: &MemoryLayout) {
        self.tracker
            .change_layout(layout.clone(), || Ok(()))
            .unwrap();
    }

    fn assert_whole(&self) {
        for (reference, expected) in &self.taken {
            assert!(restored(&self.store, *reference).unwrap() == *expected);
        }
        let report = verify(&self.store, Selection::All);
        assert!(report.ok, "{:?}", report.errors);
    }
}

// spec: MAP-24
// spec: MAP-26
// spec: STO-21
#[test]
fn snapshots_of_memory_that_changes_restore_verify_and_are_laid_out_anew() {
    let (tree, store) = store();
    // A leaf apart from the first, and a hole within the first.
    let whole = layout(&[(0, 4), (100, 2), (40_000, 2)]);
    let half = layout(&[(0, 4)]);
    let grown = layout(&[(0, 6), (100, 2), (20_000, 1), (40_000, 2)]);
    let mut machine = Machine::new(store, &whole);
    machine.take(&[1, 2, 0, 4, 5, 6, 7, 8], &[], LayoutChoice::Sparse);
    machine.change(&half);
    // Nothing was written, and memory is gone.
    let unplugged = machine.take(&[1, 2, 0, 4], &[], LayoutChoice::Packed);
    assert_eq!(unplugged, (0, 0, 4));
    machine.change(&grown);
    // Page 1 is written; all that came is taken, and what came back is not what it was.
    let fill = [1, 9, 0, 4, 3, 0, 0, 6, 2, 0, 8];
    let plugged = machine.take(&fill, &[1], LayoutChoice::Packed);
    assert_eq!(plugged, (5, 3, 3));
    let fill = [1, 9, 0, 4, 3, 0, 0, 6, 2, 7, 8];
    let next = machine.take(&fill, &[40_000], LayoutChoice::Sparse);
    assert_eq!(next, (1, 0, 10));
    machine.assert_whole();
    let layouts = machine.taken.iter().map(|(taken, _)| {
        let record = machine.store.snapshot(taken.id);
        record.unwrap().layout
    });
    assert_eq!(
        layouts.collect::<Vec<_>>(),
        [whole, half, grown.clone(), grown]
    );

    for options in [
        RelayoutOptions::compressed(FrameCodec::ZSTD),
        RelayoutOptions::of(DataLayout::Sparse),
        RelayoutOptions::of(DataLayout::Packed),
    ] {
        for (taken, _) in &machine.taken {
            machine.store.relayout(taken.id, &options).unwrap();
        }
        machine.store = reopen(&tree);
        machine.assert_whole();
    }
    // The snapshot of less memory goes; its children are whole without it.
    let middle = machine.taken.remove(1).0;
    let plan = machine.store.plan_delete(middle.id).unwrap();
    machine.store.delete(&plan).unwrap();
    machine.assert_whole();
}

// spec: MEM-04
#[test]
fn dirty_pages_that_are_numbered_in_other_memory_are_refused() {
    let (_, store) = store();
    // As many pages before as after.
    let (before, after) = (layout(&[(0, 4)]), layout(&[(1, 4)]));
    let mut machine = Machine::new(store, &before);
    machine.take(&[1, 2, 3, 4], &[], LayoutChoice::Packed);
    let epoch = machine.tracker.epoch(machine.consumer).unwrap();
    let new = named("web", "moved").parent(epoch.base());
    let mut stage = machine.store.sink(new).stage().unwrap();
    // Nobody told the tracker.
    let guest = Guest::of_layout(&after, &image(&[1, 2, 3, 4]));
    assert!(matches!(epoch.selection(), Pages::Since { .. }));
    let written = stage.memory(&guest, epoch.selection(), Stability::Paused);
    assert_eq!(kind(written), Some(ErrorKind::Incompatible));
}
