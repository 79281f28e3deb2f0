//! Dirty epochs against two sets of page numbers: no written page is ever lost.

use std::collections::BTreeSet;

use snapshot_format::{
    Digest, GuestAddress, MemoryLayout, MemoryRegion, PAGE_BYTES, PageRange, SnapshotId,
    SnapshotRef,
};
use snapshot_memory::{ConsumerId, DirtyEpoch, DirtyTracker, VmmWrites, WriteMarker};

use crate::fuzz::input::Input;

const PAGES: u64 = 130;

/// What a consumer must see.
#[derive(Default)]
struct Model {
    base: Option<SnapshotRef>,
    /// Pages written since the base.
    dirty: BTreeSet<u64>,
    /// The open epoch, and the pages written since it was taken.
    open: Option<(DirtyEpoch, BTreeSet<u64>)>,
    /// Epochs that their owner forgot.
    leaked: Vec<DirtyEpoch>,
}

/// Marks, rounds, commits, drops and leaks, for two consumers at once.
///
/// # Panics
///
/// If that does not hold.
pub fn fuzz_epochs(bytes: &[u8]) {
    let Some((tracker, marker)) = tracker() else {
        return;
    };
    let mut consumers = [None, Some(reference(1))].map(|base| {
        (
            tracker.subscribe(base),
            Model {
                base,
                ..Model::default()
            },
        )
    });
    let mut input = Input::new(bytes);
    let mut next = 2_u8;
    while !input.is_empty() {
        let op = input.byte();
        if op < 128 {
            mark(&mut input, &marker, &mut consumers);
        } else if op < 144 {
            assert!(tracker.harvest().is_empty(), "this source never fails");
        } else if let Some((id, model)) = consumers.get_mut(usize::from(op % 2)) {
            next = next.wrapping_add(1);
            turn(&tracker, *id, model, op / 2 % 4, reference(next));
        }
    }
}

fn tracker() -> Option<(DirtyTracker, WriteMarker)> {
    let region = MemoryRegion {
        start: GuestAddress(0),
        len_bytes: PAGES * PAGE_BYTES,
    };
    let layout = MemoryLayout::new(vec![region]).ok()?;
    let (source, marker) = VmmWrites::new(layout.clone());
    Some((
        DirtyTracker::new(layout, vec![Box::new(source)]).ok()?,
        marker,
    ))
}

fn mark(input: &mut Input<'_>, marker: &WriteMarker, consumers: &mut [(ConsumerId, Model); 2]) {
    let pages = PageRange::new(input.below(PAGES), input.below(20));
    marker.mark(pages);
    let marked = pages.start.0..pages.end().0.min(PAGES);
    for (_, model) in consumers {
        match &mut model.open {
            Some((_, since)) => since.extend(marked.clone()),
            None => model.dirty.extend(marked.clone()),
        }
    }
}

/// Takes an epoch, or ends the open one in one of three ways.
fn turn(
    tracker: &DirtyTracker,
    id: ConsumerId,
    model: &mut Model,
    how: u8,
    published: SnapshotRef,
) {
    let Some((epoch, since)) = model.open.take() else {
        let epoch = tracker.epoch(id);
        assert!(epoch.is_ok(), "an epoch of a known consumer: {epoch:?}");
        let Ok(epoch) = epoch else { return };
        check(&epoch, model);
        model.open = Some((epoch, BTreeSet::new()));
        return;
    };
    match how {
        0 | 1 => {
            let committed = epoch.commit(published);
            assert!(committed.is_ok(), "nobody moved the base: {committed:?}");
            model.base = Some(published);
            model.dirty = since;
        }
        2 => {
            drop(epoch);
            model.dirty.extend(since);
        }
        _ => {
            // A leaked token must cost nothing but the bits staying where they are.
            model.leaked.push(epoch);
            model.dirty.extend(since);
        }
    }
    assert_eq!(tracker.base(id).ok(), Some(model.base));
}

fn check(epoch: &DirtyEpoch, model: &Model) {
    assert_eq!(epoch.base(), model.base);
    let pages: BTreeSet<u64> = epoch
        .pages()
        .iter_runs()
        .flat_map(|run| run.start.0..run.end().0)
        .collect();
    if model.base.is_none() {
        assert_eq!(
            pages,
            (0..PAGES).collect(),
            "without a base every page is dirty"
        );
    } else {
        assert_eq!(
            pages, model.dirty,
            "an epoch holds the pages written since its base"
        );
    }
}

fn reference(number: u8) -> SnapshotRef {
    SnapshotRef {
        id: SnapshotId([number.max(1); 16]),
        digest: Digest([number; 32]),
    }
}
