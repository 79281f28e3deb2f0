use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use proptest::prelude::*;
use snapshot_format::{Digest, GuestAddress, GuestPage, MemoryRegion, PageIndex, PageRange};
use snapshot_format::{PAGE_BYTES, SnapshotId, SnapshotRef};

use super::*;
use crate::dirty::{
    BlindSpot, BlindSpots, DirtyEpoch, DirtyGuarantee, DirtySource, VmmWrites, WriteMarker,
};

fn named(n: u64) -> SnapshotRef {
    SnapshotRef {
        id: SnapshotId(u128::from(n + 1).to_le_bytes()),
        digest: Digest::of(&n.to_le_bytes()),
    }
}

fn layout(regions: &[(u64, u64)]) -> MemoryLayout {
    let region = |&(start, pages): &(u64, u64)| MemoryRegion {
        start: GuestAddress(start * PAGE_BYTES),
        len_bytes: pages * PAGE_BYTES,
    };
    MemoryLayout::new(regions.iter().map(region).collect()).unwrap()
}

fn tracked(layout: &MemoryLayout) -> (DirtyTracker, WriteMarker) {
    let (source, marker) = VmmWrites::new(layout.clone());
    let tracker = DirtyTracker::new(layout.clone(), vec![Box::new(source)]).unwrap();
    (tracker, marker)
}

/// Layouts of a few regions in the first 300 guest pages.
fn any_layout() -> impl Strategy<Value = MemoryLayout> {
    prop::collection::vec((0u64..40, 1u64..100), 1..5).prop_map(|parts| {
        let mut free_from = 0;
        let regions = parts.into_iter().map(|(gap, pages)| {
            let start = free_from + gap;
            free_from = start + pages;
            (start, pages)
        });
        layout(&regions.collect::<Vec<_>>())
    })
}

#[derive(Clone, Debug)]
enum Step {
    /// The nth page of memory is written.
    Write(u64),
    /// The same, on its way from one layout to the next: after the harvest.
    Change(MemoryLayout, Vec<u64>),
    FailedChange,
    Epoch,
    Commit(usize),
    Drop(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..400u64).prop_map(Step::Write),
        3 => (any_layout(), prop::collection::vec(0..400u64, 0..3))
            .prop_map(|(layout, writes)| Step::Change(layout, writes)),
        1 => Just(Step::FailedChange),
        3 => Just(Step::Epoch),
        3 => (0..3usize).prop_map(Step::Commit),
        1 => (0..3usize).prop_map(Step::Drop),
    ]
}

/// What each guest page holds; pages that are no memory are not there.
type Memory = BTreeMap<GuestPage, u64>;

fn pages_of(layout: &MemoryLayout) -> impl Iterator<Item = (PageIndex, GuestPage)> + '_ {
    let indices = (0..layout.page_count()).map(PageIndex);
    indices.filter_map(|index| Some((index, layout.guest_page(index)?)))
}

proptest! {
    // spec: DRT-08
    #[test]
    fn base_and_epoch_give_the_memory_of_the_instant_whatever_was_plugged(
        first in any_layout(),
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let (tracker, marker) = tracked(&first);
        let consumer = tracker.subscribe(None);
        let mut layout = first;
        let mut memory: Memory = pages_of(&layout).map(|(_, page)| (page, 0)).collect();
        let mut contents: BTreeMap<[u8; 16], Memory> = BTreeMap::new();
        let mut held: Vec<(DirtyEpoch, Memory)> = Vec::new();
        for (version, step) in (1..).zip(steps) {
            let write = |memory: &mut Memory, layout: &MemoryLayout, nth: u64| {
                let index = PageIndex(nth % layout.page_count());
                let page = layout.guest_page(index).unwrap();
                memory.insert(page, version);
                marker.mark_bytes(page.address().unwrap(), 1);
            };
            match step {
                Step::Write(nth) => write(&mut memory, &layout, nth),
                Step::Change(next, writes) => {
                    tracker.change_layout(next.clone(), || {
                        writes.iter().for_each(|nth| write(&mut memory, &layout, *nth));
                        Ok(())
                    }).unwrap();
                    let old = std::mem::take(&mut memory);
                    // What is plugged holds something that nobody saw being written.
                    let kept = |page| old.get(&page).copied().unwrap_or(1_000_000 + version);
                    memory = pages_of(&next).map(|(_, page)| (page, kept(page))).collect();
                    layout = next;
                }
                Step::FailedChange => {
                    let failed = tracker.change_layout(layout.clone(), || Err("no".into()));
                    let is_told = matches!(failed, Err(DirtyError::Change { .. }));
                    prop_assert!(is_told);
                }
                Step::Epoch => {
                    let epoch = tracker.epoch(consumer).unwrap();
                    prop_assert_eq!(epoch.layout(), &layout);
                    let base = epoch.base().map(|base| &contents[&base.id.0]);
                    for (index, page) in pages_of(&layout) {
                        if !epoch.pages().is_set(index) {
                            let before = base.and_then(|base| base.get(&page));
                            prop_assert_eq!(before, memory.get(&page), "{:?} is lost", page);
                        }
                    }
                    held.push((epoch, memory.clone()));
                }
                Step::Commit(nth) if nth < held.len() => {
                    let (epoch, memory) = held.remove(nth);
                    if epoch.commit(named(version)).is_ok() {
                        contents.insert(named(version).id.0, memory);
                    }
                }
                Step::Drop(nth) if nth < held.len() => drop(held.remove(nth)),
                Step::Commit(_) | Step::Drop(_) => {}
            }
        }
    }
}

// spec: DRT-08
#[test]
fn bits_follow_their_guest_pages_and_new_pages_are_dirty() {
    let before = layout(&[(0, 10), (100, 10)]);
    let (tracker, marker) = tracked(&before);
    let consumer = tracker.subscribe(Some(named(0)));
    let mark = |page: u64| marker.mark_bytes(GuestAddress(page * PAGE_BYTES), 1);
    mark(9);
    mark(105);
    // The lower region shrinks, one is plugged between, the upper one grows.
    let after = layout(&[(0, 9), (50, 3), (100, 12)]);
    tracker
        .change_layout(after.clone(), || {
            mark(103);
            Ok(())
        })
        .unwrap();
    mark(51);
    let epoch = tracker.epoch(consumer).unwrap();
    let runs: Vec<_> = epoch.pages().iter_runs().collect();
    let expected = [(9, 3), (15, 1), (17, 1), (22, 2)].map(|(at, n)| PageRange::new(at, n));
    assert_eq!(runs, expected);
    epoch.commit(named(1)).unwrap();
    // Nothing of it comes twice.
    assert!(tracker.epoch(consumer).unwrap().pages().is_clean());
    assert_eq!(*tracker.layout(), after);
}

// spec: DRT-08
#[test]
fn memory_that_goes_and_comes_back_is_new() {
    let (whole, half) = (layout(&[(0, 10)]), layout(&[(0, 5)]));
    let (tracker, _) = tracked(&whole);
    let consumer = tracker.subscribe(Some(named(0)));
    // An epoch that is closed before, and committed after.
    let epoch = tracker.epoch(consumer).unwrap();
    tracker.change_layout(half, || Ok(())).unwrap();
    tracker.change_layout(whole, || Ok(())).unwrap();
    epoch.commit(named(1)).unwrap();
    let next = tracker.epoch(consumer).unwrap();
    let runs: Vec<_> = next.pages().iter_runs().collect();
    assert_eq!(runs, [PageRange::new(5, 5)]);
}

/// A source that cannot follow.
struct Fixed(MemoryLayout);

impl DirtySource for Fixed {
    fn name(&self) -> &'static str {
        "fixed"
    }

    fn guarantee(&self) -> DirtyGuarantee {
        DirtyGuarantee::Superset
    }

    fn blind_spots(&self) -> BlindSpots {
        BlindSpots::all_but(&[BlindSpot::Vcpus, BlindSpot::VhostKernel])
    }

    fn layout(&self) -> &MemoryLayout {
        &self.0
    }

    fn granule_bytes(&self) -> u64 {
        PAGE_BYTES
    }

    fn start(&mut self) -> Result<(), DirtyError> {
        Ok(())
    }

    fn harvest(&mut self, _: &DirtyBitmap) -> Result<(), DirtyError> {
        Ok(())
    }

    fn stop(&mut self) -> Result<(), DirtyError> {
        Ok(())
    }
}

// spec: DRT-09
#[test]
fn a_source_that_cannot_follow_makes_every_page_dirty_from_then_on() {
    let (before, after) = (layout(&[(0, 10)]), layout(&[(0, 12)]));
    let (vmm, _) = VmmWrites::new(before.clone());
    let sources: Vec<Box<dyn DirtySource>> = vec![Box::new(Fixed(before.clone())), Box::new(vmm)];
    let tracker = DirtyTracker::new(before.clone(), sources).unwrap();
    let consumer = tracker.subscribe(Some(named(0)));
    let error = tracker.change_layout(after, || Ok(())).unwrap_err();
    assert!(matches!(error, DirtyError::FixedLayout { .. }), "{error}");
    for commit in 1..4 {
        let epoch = tracker.epoch(consumer).unwrap();
        assert_eq!(epoch.pages().count(), 12);
        assert!(!epoch.failures().is_empty());
        epoch.commit(named(commit)).unwrap();
    }
}

// spec: DRT-09
#[test]
fn a_change_that_fails_or_panics_keeps_the_layout_and_makes_every_page_dirty() {
    let before = layout(&[(0, 10)]);
    for panics in [false, true] {
        let (tracker, _) = tracked(&before);
        let consumer = tracker.subscribe(Some(named(0)));
        let change = || {
            let change = || -> Result<(), Box<dyn Error + Send + Sync>> {
                assert!(!panics, "told to panic");
                Err("told to fail".into())
            };
            tracker.change_layout(layout(&[(0, 12)]), change)
        };
        let outcome = catch_unwind(AssertUnwindSafe(change));
        assert_eq!(outcome.is_err(), panics);
        let epoch = tracker.epoch(consumer).unwrap();
        assert_eq!((epoch.layout(), epoch.pages().count()), (&before, 10));
        epoch.commit(named(1)).unwrap();
        assert!(tracker.epoch(consumer).unwrap().pages().is_clean());
    }
}

// spec: SRC-02
#[test]
fn a_tracker_says_whose_writes_nobody_sees() {
    let memory = layout(&[(0, 10)]);
    let (vmm, _) = VmmWrites::new(memory.clone());
    let sources: Vec<Box<dyn DirtySource>> = vec![Box::new(Fixed(memory.clone())), Box::new(vmm)];
    let tracker = DirtyTracker::new(memory.clone(), sources).unwrap();
    assert_eq!(tracker.source_names(), ["fixed", "vmm"]);
    let uncovered: Vec<_> = tracker.blind_spots().names().collect();
    assert_eq!(uncovered, ["other-processes", "pinned-writers"]);
    let nothing = DirtyTracker::new(memory, Vec::new()).unwrap();
    assert_eq!(nothing.blind_spots(), BlindSpots::ALL);
}
