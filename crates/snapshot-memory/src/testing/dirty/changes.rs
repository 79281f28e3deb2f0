//! Harvests that fail, and memory that changes.

use snapshot_format::{MemoryLayout, PageIndex};

use super::writes::boundaries;
use super::{DirtyRig, Tracked};
use crate::dirty::DirtyBitmap;

/// A harvest that fails makes every page dirty, in one epoch.
pub(super) fn check_failure(rig: &mut dyn DirtyRig) {
    let mut tracked = Tracked::start(rig);
    rig.write(PageIndex(0), 0);
    if rig.break_next_harvest() {
        let epoch = tracked.epoch();
        let name = tracked.promise.name;
        assert!(!epoch.failures().is_empty(), "{name}: the failure is told");
        let page_count = epoch.layout().page_count();
        let count = tracked.commit_epoch(epoch).count();
        assert_eq!(count, page_count, "{name}: a failure makes all pages dirty");
        // What the harvest that failed left behind may come with the next one.
        tracked.commit();
    } else {
        tracked.commit();
    }
    rig.write(PageIndex(1), 0);
    let found = tracked.commit();
    let layout = tracked.tracker.layout();
    tracked.promise.check(&layout, &found, &[1]);
}

/// Every layout of the rig in turn, and back to the first one.
pub(super) fn check_layouts(rig: &mut dyn DirtyRig) {
    let mut layouts = rig.layouts();
    if layouts.is_empty() {
        return;
    }
    let mut tracked = Tracked::start(rig);
    let first = MemoryLayout::clone(&tracked.tracker.layout());
    layouts.push(first.clone());
    for layout in &layouts {
        change(&mut tracked, rig, layout);
    }
    drop(tracked);
    let mut source = rig.source();
    assert_eq!(*source.layout(), first, "the rig is back where it was");
    super::writes::check(&mut *source, rig);
}

/// What was written before a change is dirty where its pages are now; new pages are all dirty;
/// nothing else is. Writes after it are seen in all of the new memory.
fn change(tracked: &mut Tracked, rig: &mut dyn DirtyRig, to: &MemoryLayout) {
    let name = tracked.promise.name;
    let from = tracked.tracker.layout();
    let stays = from.shared_runs(to);
    let written: Vec<u64> = stays
        .iter()
        .flat_map(|run| [0, run.pages.count - 1].map(|page| (run, page)))
        .map(|(run, page)| run.pages.start.0 + page)
        // One that goes: its bit must not turn up anywhere.
        .chain(from.pages_not_in(to).first().map(|run| run.start.0))
        .collect();
    for page in &written {
        rig.write(PageIndex(*page), 0);
    }

    let changed = tracked.tracker.change_layout(to.clone(), || rig.change(to));
    assert!(changed.is_ok(), "{name}: {to:?}: {changed:?}");
    assert_eq!(*tracked.tracker.layout(), *to);
    let epoch = tracked.epoch();
    assert_eq!(epoch.layout(), to);
    assert!(
        epoch.failures().is_empty(),
        "{name}: {:?}",
        epoch.failures()
    );
    let found = tracked.commit_epoch(epoch);

    let promise = tracked.promise;
    // Bits move with their pages, and with them what a coarse source had named around them.
    let named = promise.named(&from, &written);
    let expected = DirtyBitmap::new(to.page_count());
    for run in stays {
        expected.or_moved(&named, run.pages, run.other);
    }
    for new in to.pages_not_in(&from) {
        expected.set_range(new);
    }
    promise.check_bits(&found, &expected);

    for page in boundaries(to, promise.granule_bytes) {
        rig.write(PageIndex(page), 0);
        let found = tracked.commit();
        promise.check(to, &found, &[page]);
    }
}
