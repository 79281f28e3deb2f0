use std::sync::Mutex;

use proptest::prelude::*;
use snapshot_format::{Digest, PAGE_BYTES, PageIndex, PageRange, SnapshotId};

use super::*;
use crate::dirty::{BlindSpot, BlindSpots, DirtyGuarantee, VmmWrites, WriteMarker};

const PAGES: u64 = 130;

fn layout() -> MemoryLayout {
    MemoryLayout::single(PAGES * PAGE_BYTES).unwrap()
}

fn named(n: u8) -> SnapshotRef {
    SnapshotRef {
        id: SnapshotId([n; 16]),
        digest: Digest::of(&[n]),
    }
}

fn one() -> NonZeroUsize {
    NonZeroUsize::MIN
}

fn pages_of(bits: &DirtyBitmap) -> Vec<u64> {
    bits.iter_runs()
        .flat_map(|run| run.start.0..run.end().0)
        .collect()
}

/// Takes what it gives, in a peek as well, and fails when told to.
struct Taking {
    layout: MemoryLayout,
    bits: Arc<DirtyBitmap>,
    fails: Arc<Mutex<bool>>,
}

impl DirtySource for Taking {
    fn name(&self) -> &'static str {
        "taking"
    }

    fn guarantee(&self) -> DirtyGuarantee {
        DirtyGuarantee::Exact
    }

    fn blind_spots(&self) -> BlindSpots {
        BlindSpots::all_but(&[BlindSpot::Vcpus])
    }

    fn layout(&self) -> &MemoryLayout {
        &self.layout
    }

    fn granule_bytes(&self) -> u64 {
        PAGE_BYTES
    }

    fn start(&mut self) -> Result<(), DirtyError> {
        Ok(())
    }

    fn harvest(&mut self, into: &DirtyBitmap) -> Result<(), DirtyError> {
        into.or_from(&self.bits.take());
        let fails = std::mem::take(&mut *self.fails.lock().unwrap());
        if fails {
            return Err(DirtyError::Invalid {
                name: "taking",
                what: "told to fail".to_owned(),
            });
        }
        Ok(())
    }

    fn stop(&mut self) -> Result<(), DirtyError> {
        Ok(())
    }
}

struct Machine {
    tracker: DirtyTracker,
    marker: WriteMarker,
    taken: Arc<DirtyBitmap>,
    fails: Arc<Mutex<bool>>,
}

impl Machine {
    fn new() -> Self {
        let (writes, marker) = VmmWrites::new(layout());
        let taken = Arc::new(DirtyBitmap::new(PAGES));
        let fails = Arc::new(Mutex::new(false));
        let taking = Taking {
            layout: layout(),
            bits: taken.clone(),
            fails: fails.clone(),
        };
        let sources: Vec<Box<dyn DirtySource>> = vec![Box::new(writes), Box::new(taking)];
        Self {
            tracker: DirtyTracker::new(layout(), sources).unwrap(),
            marker,
            taken,
            fails,
        }
    }

    /// A write that one of the sources sees.
    fn write(&self, page: u64) {
        if page.is_multiple_of(2) {
            self.marker.mark(PageRange::new(page, 1));
        } else {
            self.taken.set(PageIndex(page));
        }
    }
}

// spec: LIV-02
#[test]
fn each_round_names_what_was_written_since_the_one_before_whoever_harvests() {
    let machine = Machine::new();
    let consumer = machine.tracker.subscribe(Some(named(1)));
    let other = machine.tracker.subscribe(Some(named(2)));
    machine.write(3);
    machine.write(4);
    let mut live = machine.tracker.live(consumer, one()).unwrap();
    assert_eq!(live.base(), Some(named(1)));
    assert_eq!(pages_of(&live.first().unwrap()), [3, 4]);
    machine.write(4);
    machine.write(7);
    // Another consumer takes the bits out of the sources.
    drop(machine.tracker.epoch(other).unwrap());
    machine.write(9);
    assert_eq!(pages_of(&live.round().unwrap()), [4, 7, 9]);
    assert_eq!(pages_of(&live.round().unwrap()), [0; 0]);
    machine.write(10);
    machine.write(11);
    let epoch = live.close().unwrap();
    assert_eq!(pages_of(epoch.pages()), [10, 11]);
    // A pause that was given up: the next one has its pages as well.
    machine.write(12);
    live.reopen(epoch);
    let epoch = live.close().unwrap();
    assert_eq!(pages_of(epoch.pages()), [10, 11, 12]);
    drop(live);
    // The other consumer has lost nothing by it.
    let theirs = machine.tracker.epoch(other).unwrap();
    assert_eq!(pages_of(theirs.pages()), [3, 4, 7, 9, 10, 11, 12]);
    epoch.commit(named(5)).unwrap();
    assert_eq!(machine.tracker.base(consumer).unwrap(), Some(named(5)));
}

// spec: LIV-02
#[test]
fn without_a_base_the_first_round_is_of_every_page() {
    let machine = Machine::new();
    let consumer = machine.tracker.subscribe(None);
    let mut live = machine.tracker.live(consumer, one()).unwrap();
    assert_eq!(live.first().unwrap().count(), PAGES);
    assert!(live.round().unwrap().is_clean());
}

// spec: LIV-03
#[test]
fn a_live_epoch_that_is_lost_loses_no_bit_and_one_that_is_overtaken_is_refused() {
    let machine = Machine::new();
    let consumer = machine.tracker.subscribe(Some(named(1)));
    machine.write(20);
    let mut live = machine.tracker.live(consumer, one()).unwrap();
    drop(live.first().unwrap());
    machine.write(21);
    drop(live.close().unwrap());
    let late = live.close().unwrap();
    drop(live);
    machine.write(23);
    let epoch = machine.tracker.epoch(consumer).unwrap();
    assert_eq!(pages_of(epoch.pages()), [20, 21, 23]);
    epoch.commit(named(2)).unwrap();
    let refused = late.commit(named(3)).unwrap_err();
    assert!(matches!(refused, DirtyError::WrongBase { .. }), "{refused}");
}

// spec: LIV-04
#[test]
fn a_source_that_fails_in_any_round_is_answered_by_every_page() {
    let machine = Machine::new();
    let consumer = machine.tracker.subscribe(Some(named(1)));
    let mut live = machine.tracker.live(consumer, one()).unwrap();
    drop(live.first().unwrap());
    *machine.fails.lock().unwrap() = true;
    assert_eq!(live.round().unwrap().count(), PAGES);
    assert_eq!(live.take_failures().len(), 1);
    assert!(live.round().unwrap().is_clean());
    *machine.fails.lock().unwrap() = true;
    let epoch = live.close().unwrap();
    assert_eq!((epoch.pages().count(), epoch.failures().len()), (PAGES, 1));
}

// spec: LIV-05
#[test]
fn memory_that_is_plugged_meanwhile_ends_the_rounds() {
    let (writes, _marker) = VmmWrites::new(layout());
    let tracker = DirtyTracker::new(layout(), vec![Box::new(writes)]).unwrap();
    let consumer = tracker.subscribe(Some(named(1)));
    let mut live = tracker.live(consumer, one()).unwrap();
    drop(live.first().unwrap());
    let larger = MemoryLayout::single(2 * PAGES * PAGE_BYTES).unwrap();
    tracker.change_layout(larger, || Ok(())).unwrap();
    let refused = live.round().unwrap_err();
    assert!(matches!(refused, DirtyError::Replugged), "{refused}");
    let refused = live.close().unwrap_err();
    assert!(matches!(refused, DirtyError::Replugged), "{refused}");
    drop(live);
    // The consumer has its bits, and those of the new memory.
    assert_eq!(tracker.epoch(consumer).unwrap().pages().count(), PAGES);
}

#[test]
fn a_consumer_that_has_left_has_no_rounds() {
    let machine = Machine::new();
    let consumer = machine.tracker.subscribe(None);
    let mut live = machine.tracker.live(consumer, one()).unwrap();
    machine.tracker.unsubscribe(consumer);
    let refused = live.first().unwrap_err();
    assert!(matches!(refused, DirtyError::UnknownConsumer), "{refused}");
    let refused = live.close().unwrap_err();
    assert!(matches!(refused, DirtyError::UnknownConsumer), "{refused}");
    machine.tracker.live(consumer, one()).unwrap_err();
}

/// What happens next to a machine.
#[derive(Clone, Debug)]
enum Event {
    Write(u64),
    Round,
    /// The pause, given up.
    Retry,
    OtherEpoch,
    Fail,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0..PAGES).prop_map(Event::Write),
        2 => Just(Event::Round),
        1 => Just(Event::Retry),
        1 => Just(Event::OtherEpoch),
        1 => Just(Event::Fail),
    ]
}

proptest! {
    // spec: LIV-02
    #[test]
    fn the_rounds_together_give_the_memory_of_the_pause(
        before in proptest::collection::vec(0..PAGES, 0..20),
        events in proptest::collection::vec(event(), 0..60),
        after in proptest::collection::vec(0..PAGES, 0..20),
    ) {
        let machine = Machine::new();
        let consumer = machine.tracker.subscribe(Some(named(1)));
        let other = machine.tracker.subscribe(Some(named(2)));
        // Each write makes a new version of its page; rounds copy versions.
        let mut memory = vec![0u64; PAGES as usize];
        let mut image = memory.clone();
        let mut version = 0;
        let mut write = |memory: &mut Vec<u64>, page: u64| {
            version += 1;
            memory[page as usize] = version;
            machine.write(page);
        };
        let copy = |image: &mut Vec<u64>, memory: &[u64], bits: &DirtyBitmap| {
            for page in pages_of(bits) {
                image[page as usize] = memory[page as usize];
            }
        };
        for page in before { write(&mut memory, page); }
        let mut live = machine.tracker.live(consumer, one()).unwrap();
        copy(&mut image, &memory, &live.first().unwrap());
        for event in events {
            match event {
                Event::Write(page) => write(&mut memory, page),
                Event::Round => copy(&mut image, &memory, &live.round().unwrap()),
                Event::Retry => {
                    let epoch = live.close().unwrap();
                    live.reopen(epoch);
                }
                Event::OtherEpoch => drop(machine.tracker.epoch(other).unwrap()),
                Event::Fail => *machine.fails.lock().unwrap() = true,
            }
        }
        let epoch = live.close().unwrap();
        copy(&mut image, &memory, epoch.pages());
        prop_assert_eq!(&image, &memory);
        drop(live);
        // The next diff, over this image, gives the memory of its own instant.
        for page in after { write(&mut memory, page); }
        epoch.commit(named(3)).unwrap();
        copy(&mut image, &memory, machine.tracker.epoch(consumer).unwrap().pages());
        prop_assert_eq!(image, memory);
    }
}
