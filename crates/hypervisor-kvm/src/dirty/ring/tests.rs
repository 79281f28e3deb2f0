use std::sync::atomic::Ordering;

use proptest::prelude::*;
use snapshot_format::{GuestAddress, MemoryRegion, PageRange};
use snapshot_memory::DirtyTracker;

use super::*;
use crate::dirty::entries::{DIRTY, RESET};
use crate::dirty::recorder::Recorder;

const ENTRIES: u32 = 256;

/// A ring that the test plays the kernel of.
#[derive(Clone)]
struct FakeRing(Arc<[Entry]>);

impl FakeRing {
    fn new() -> Self {
        Self((0..ENTRIES).map(|_| Entry::default()).collect())
    }

    fn put(&self, at: usize, flags: u32, slot: u32, offset: u64) {
        let entry = &self.0[at % self.0.len()];
        entry.slot.store(slot, Ordering::Relaxed);
        entry.offset.store(offset, Ordering::Relaxed);
        entry.flags.store(flags, Ordering::Release);
    }

    fn flags(&self) -> Vec<u32> {
        let flags = self
            .0
            .iter()
            .map(|entry| entry.flags.load(Ordering::Acquire));
        flags.collect()
    }
}

impl Entries for FakeRing {
    fn entries(&self) -> &[Entry] {
        &self.0
    }
}

fn layout_of(regions: &[(u64, u64)]) -> MemoryLayout {
    let region = |&(start, pages): &(u64, u64)| MemoryRegion {
        start: GuestAddress(start * PAGE_BYTES),
        len_bytes: pages * PAGE_BYTES,
    };
    MemoryLayout::new(regions.iter().map(region).collect()).unwrap()
}

fn layout() -> MemoryLayout {
    layout_of(&[(0, 65), (0x10_0000, 70)])
}

fn slot(slot: u32, first: u64, pages: u64) -> MemorySlot {
    MemorySlot {
        slot,
        flags: 0,
        guest_address: first * PAGE_BYTES,
        len_bytes: pages * PAGE_BYTES,
        host_address: (1 << 40) + first * PAGE_BYTES,
    }
}

fn slots() -> Vec<MemorySlot> {
    vec![slot(3, 0, 65), slot(5, 0x10_0000, 70)]
}

struct Machine {
    recorder: Recorder,
    rings: [FakeRing; 2],
    source: KvmDirtyRing,
    exits: VcpuRings,
}

fn enabled(known: &[(u32, u64)]) -> (Recorder, Result<DirtyRings, KvmError>) {
    enabled_with(known, ENTRIES)
}

fn enabled_with(known: &[(u32, u64)], entries: u32) -> (Recorder, Result<DirtyRings, KvmError>) {
    let recorder = Recorder::default();
    recorder.script().known = known.to_vec();
    let rings = DirtyRings::with_calls(Box::new(recorder.clone()), entries);
    (recorder, rings)
}

fn machine_with(known: &[(u32, u64)]) -> Machine {
    let (recorder, enabled) = enabled(known);
    let rings = [FakeRing::new(), FakeRing::new()];
    let boxed = rings
        .iter()
        .map(|ring| Box::new(ring.clone()) as Box<dyn Entries>);
    let made = enabled
        .unwrap()
        .with_rings(boxed.collect(), layout(), &slots());
    let exits = made.unwrap();
    let mut source = exits.source();
    source.start().unwrap();
    recorder.made();
    Machine {
        recorder,
        rings,
        source,
        exits,
    }
}

fn machine() -> Machine {
    machine_with(&[(KVM_CAP_DIRTY_LOG_RING_ACQ_REL, 1 << 20)])
}

impl Machine {
    fn harvest(&mut self) -> Result<Vec<PageRange>, DirtyError> {
        let found = DirtyBitmap::new(self.source.layout().page_count());
        self.source.harvest(&found)?;
        Ok(found.iter_runs().collect())
    }
}

// spec: SRC-04
#[test]
fn rings_are_enabled_in_their_order_and_never_with_bits_that_are_set_from_the_start() {
    let manual = kvm_bindings::KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2;
    let (recorder, rings) = enabled(&[
        (manual, 3),
        (KVM_CAP_DIRTY_LOG_RING, 1 << 20),
        (KVM_CAP_DIRTY_LOG_RING_ACQ_REL, 1 << 20),
        (KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP, 1),
    ]);
    drop(rings.unwrap());
    let expected = [
        format!("enable {manual} 0"),
        format!("enable {KVM_CAP_DIRTY_LOG_RING_ACQ_REL} 4096"),
        format!("enable {KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP} 0"),
    ];
    assert_eq!(recorder.made(), expected);
    let (recorder, rings) = enabled(&[(KVM_CAP_DIRTY_LOG_RING, 1 << 20)]);
    drop(rings.unwrap());
    let expected = [format!("enable {KVM_CAP_DIRTY_LOG_RING} 4096")];
    assert_eq!(recorder.made(), expected);
}

// spec: SRC-04
#[test]
fn rings_that_the_kernel_does_not_have_or_take_are_refused() {
    let (recorder, rings) = enabled(&[]);
    assert!(matches!(rings.unwrap_err(), KvmError::Unsupported { .. }));
    assert_eq!(recorder.made(), [""; 0]);
    for entries in [0, 1, 128, 300, 131_072] {
        let known = [(KVM_CAP_DIRTY_LOG_RING, 1 << 20)];
        let (recorder, rings) = enabled_with(&known, entries);
        let error = rings.unwrap_err();
        assert!(
            matches!(error, KvmError::RingSize { .. }),
            "{entries}: {error}"
        );
        assert_eq!(recorder.made(), [""; 0]);
    }
    let private = (kvm_bindings::KVM_CAP_MEMORY_ATTRIBUTES, 8);
    let (_, rings) = enabled(&[(KVM_CAP_DIRTY_LOG_RING, 1 << 20), private]);
    assert!(matches!(rings.unwrap_err(), KvmError::PrivateMemory { .. }));
}

// spec: SRC-07
#[test]
fn entries_of_all_rings_are_taken_in_order_and_reset_once() {
    let mut machine = machine();
    machine.rings[0].put(0, DIRTY, 3, 64);
    machine.rings[0].put(1, DIRTY, 5, 0);
    machine.rings[1].put(0, DIRTY, 5, 69);
    // Written by the kernel, and not yet told to us.
    machine.rings[1].put(1, 0, 5, 33);
    let found = machine.harvest().unwrap();
    assert_eq!(found, [PageRange::new(64, 2), PageRange::new(134, 1)]);
    assert_eq!(machine.recorder.made(), ["reset"]);
    assert_eq!(machine.rings[0].flags()[..3], [RESET, RESET, 0]);
    assert_eq!(machine.rings[1].flags()[..2], [RESET, 0]);
    // Nothing was written since: the kernel is not asked for anything.
    assert_eq!(machine.harvest().unwrap(), []);
    assert_eq!(machine.recorder.made(), [""; 0]);
}

// spec: SRC-07
#[test]
fn a_full_ring_is_emptied_by_its_vcpu_and_its_pages_wait_for_the_harvest() {
    let mut machine = machine();
    for round in 0..3 {
        for at in 0..ENTRIES as usize {
            machine.rings[0].put(at, DIRTY, 5, at as u64 % 70);
        }
        machine.exits.on_full().unwrap();
        assert_eq!(machine.recorder.made(), ["reset"], "round {round}");
        assert_eq!(machine.rings[0].flags(), [RESET; ENTRIES as usize]);
        // Nothing is taken twice before the kernel has reset it.
        machine.exits.on_full().unwrap();
        assert_eq!(machine.recorder.made(), [""; 0], "round {round}");
    }
    assert_eq!(machine.harvest().unwrap(), [PageRange::new(65, 70)]);
    assert_eq!(machine.harvest().unwrap(), []);
}

// spec: SRC-07
#[test]
fn entries_that_make_no_sense_make_every_page_dirty_once() {
    let bad: [(u32, u32, u64); 5] = [
        (DIRTY, 4, 0),
        (DIRTY, 3, 65),
        (DIRTY, 5, u64::MAX),
        (DIRTY, u32::MAX, 0),
        (DIRTY, 3 << 16, 0),
    ];
    for (flags, number, offset) in bad {
        let mut machine = machine();
        machine.rings[0].put(0, flags, number, offset);
        machine.rings[0].put(1, DIRTY, 3, 7);
        // The vCPU is let on: the entry is taken all the same.
        machine.exits.on_full().unwrap();
        let error = machine.harvest().unwrap_err();
        assert!(matches!(error, DirtyError::Invalid { .. }), "{error}");
        machine.rings[0].put(2, DIRTY, 3, 8);
        assert_eq!(machine.harvest().unwrap(), [PageRange::new(8, 1)]);
    }
    // Flags of no meaning: there is no telling what comes behind them.
    let mut machine = machine();
    machine.rings[0].put(0, 4 | DIRTY, 3, 1);
    machine.rings[1].put(0, DIRTY, 3, 2);
    machine.harvest().unwrap_err();
    machine.harvest().unwrap_err();
}

// spec: SRC-07
#[test]
fn pages_that_could_not_be_protected_again_are_not_trusted() {
    let mut machine = machine();
    machine.rings[0].put(0, DIRTY, 3, 1);
    machine.recorder.script().refused.push(("reset", libc::EIO));
    machine.exits.on_full().unwrap_err();
    machine.harvest().unwrap_err();
    machine.recorder.script().refused.clear();
    // Now they are; but what was written in between is in no ring.
    machine.harvest().unwrap_err();
    assert_eq!(machine.harvest().unwrap(), []);
}

fn peek(machine: &mut Machine) -> Result<Vec<PageRange>, DirtyError> {
    let found = DirtyBitmap::new(machine.source.layout().page_count());
    machine.source.peek(&found)?;
    Ok(found.iter_runs().collect())
}

// spec: SRC-11
#[test]
fn a_peek_resets_nothing_and_its_pages_stay_pending_until_they_are_protected() {
    let mut machine = machine();
    machine.rings[0].put(0, DIRTY, 3, 1);
    assert_eq!(peek(&mut machine).unwrap(), [PageRange::new(1, 1)]);
    assert_eq!(machine.recorder.made(), [""; 0]);
    machine.rings[0].put(1, DIRTY, 3, 7);
    let both = [PageRange::new(1, 1), PageRange::new(7, 1)];
    assert_eq!(peek(&mut machine).unwrap(), both);
    // Page 1 may have been written since, and no ring would say so.
    assert_eq!(machine.harvest().unwrap(), both);
    assert_eq!(machine.recorder.made(), ["reset"]);
    assert_eq!(machine.harvest().unwrap(), []);
}

// spec: SRC-11
#[test]
fn a_peek_makes_nothing_trusted_that_could_not_be_protected() {
    let mut machine = machine();
    machine.rings[0].put(0, DIRTY, 3, 1);
    machine.recorder.script().refused.push(("reset", libc::EIO));
    machine.harvest().unwrap_err();
    // Page 1 is given away, and unprotected: now, and until it is protected.
    peek(&mut machine).unwrap_err();
    peek(&mut machine).unwrap_err();
    machine.recorder.script().refused.clear();
    machine.harvest().unwrap_err();
    assert_eq!(machine.harvest().unwrap(), []);
    // A harvest after a peek that fails gives the pages away as well.
    machine.rings[0].put(1, DIRTY, 3, 2);
    assert_eq!(peek(&mut machine).unwrap(), [PageRange::new(2, 1)]);
    machine.recorder.script().refused.push(("reset", libc::EIO));
    machine.harvest().unwrap_err();
    machine.recorder.script().refused.clear();
    machine.harvest().unwrap_err();
    assert_eq!(machine.harvest().unwrap(), []);
}

#[test]
fn where_the_kernel_writes_without_a_vcpu_the_log_is_fetched_too() {
    let mut machine = machine_with(&[
        (KVM_CAP_DIRTY_LOG_RING_ACQ_REL, 1 << 20),
        (KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP, 1),
    ]);
    machine.recorder.script().log = vec![(5, vec![1 << 4])];
    machine.rings[1].put(0, DIRTY, 3, 0);
    let found = machine.harvest().unwrap();
    assert_eq!(found, [PageRange::new(0, 1), PageRange::new(69, 1)]);
    assert_eq!(machine.recorder.made(), ["reset", "get 3", "get 5"]);
}

// spec: SRC-09
#[test]
fn entries_of_slots_that_go_are_taken_before_their_numbers_mean_others() {
    let Machine {
        recorder,
        rings,
        source,
        exits,
    } = machine();
    let handle = exits.slots();
    let tracker = DirtyTracker::new(layout(), vec![Box::new(source)]).unwrap();
    let base = snapshot_format::SnapshotRef {
        id: snapshot_format::SnapshotId([1; 16]),
        digest: snapshot_format::Digest::of(b"base"),
    };
    let consumer = tracker.subscribe(Some(base));
    recorder.made();
    // Slot 5 becomes smaller, and slot 3 goes; its number is given to other memory.
    let after = layout_of(&[(0x10_0000, 40), (0x20_0000, 10)]);
    rings[0].put(0, DIRTY, 5, 1);
    let changed = tracker.change_layout(after, || {
        // Written before the slots went, and after the harvest.
        rings[0].put(1, DIRTY, 3, 2);
        rings[0].put(2, DIRTY, 5, 3);
        rings[0].put(3, DIRTY, 5, 50);
        // SAFETY: the machine is a recording.
        unsafe { handle.replace(vec![slot(6, 0x10_0000, 40), slot(3, 0x20_0000, 10)]) };
        Ok(())
    });
    changed.unwrap();
    assert_eq!(
        recorder.made(),
        ["reset", "reset", "flags 3 1", "flags 6 1"]
    );
    rings[0].put(4, DIRTY, 3, 9);
    exits.on_full().unwrap();
    let epoch = tracker.epoch(consumer).unwrap();
    assert!(epoch.failures().is_empty(), "{:?}", epoch.failures());
    let runs: Vec<_> = epoch.pages().iter_runs().collect();
    let expected = [
        PageRange::new(1, 1),
        PageRange::new(3, 1),
        // New memory is dirty as a whole.
        PageRange::new(40, 10),
    ];
    assert_eq!(runs, expected);
}

proptest! {
    // spec: SRC-07
    #[test]
    fn no_ring_brings_anything_down(
        hostile in proptest::collection::vec((any::<u32>(), any::<u32>(), any::<u64>()), 256),
        sane in 0u32..3,
    ) {
        let mut machine = machine();
        for (at, (flags, slot, offset)) in hostile.into_iter().enumerate() {
            let flags = if sane > 0 { DIRTY } else { flags & 7 };
            let slot = if sane > 1 { 3 } else { slot };
            machine.rings[0].put(at, flags, slot, offset % 80);
        }
        let found = DirtyBitmap::new(layout().page_count());
        let before = machine.rings[0].flags();
        // An error, or every page that was named.
        if machine.source.harvest(&found).is_ok() {
            let named = before.iter().take_while(|flags| **flags == DIRTY).count();
            for entry in machine.rings[0].0.iter().take(named) {
                let (slot, offset) = (entry.slot.load(Ordering::Relaxed), entry.offset.load(Ordering::Relaxed));
                let first = if slot == 3 { 0 } else { 65 };
                prop_assert!(slot == 3 || slot == 5);
                prop_assert!(found.is_set(PageIndex(first + offset)));
            }
        }
    }
}
