use proptest::prelude::*;
use snapshot_format::{Digest, PageIndex, PageRange, SnapshotId};

use super::*;
use crate::dirty::{BlindSpot, BlindSpots, DirtyGuarantee, VmmWrites, WriteMarker};

const PAGES: u64 = 130;

fn layout() -> MemoryLayout {
    MemoryLayout::single(PAGES * PAGE_BYTES).unwrap()
}

fn named(n: u64) -> SnapshotRef {
    SnapshotRef {
        id: SnapshotId(u128::from(n + 1).to_le_bytes()),
        digest: Digest::of(&n.to_le_bytes()),
    }
}

/// A source of granules of 4 pages, which fails when told to, with its bits taken or not.
#[derive(Debug)]
struct Coarse {
    layout: MemoryLayout,
    bits: Arc<DirtyBitmap>,
    failing: Arc<Mutex<Option<bool>>>,
}

impl DirtySource for Coarse {
    fn name(&self) -> &'static str {
        "coarse"
    }

    fn guarantee(&self) -> DirtyGuarantee {
        DirtyGuarantee::Superset
    }

    fn blind_spots(&self) -> BlindSpots {
        BlindSpots::all_but(&[BlindSpot::Vcpus])
    }

    fn layout(&self) -> &MemoryLayout {
        &self.layout
    }

    fn granule_bytes(&self) -> u64 {
        4 * PAGE_BYTES
    }

    fn start(&mut self) -> Result<(), DirtyError> {
        Ok(())
    }

    fn harvest(&mut self, into: &DirtyBitmap) -> Result<(), DirtyError> {
        let failing = self.failing.lock().unwrap().take();
        if failing == Some(false) {
            return Err(failure());
        }
        for run in self.bits.take().iter_runs() {
            for page in run.start.0..run.end().0 {
                into.set_range(PageRange::new(page / 4 * 4, 4));
            }
        }
        failing.map_or(Ok(()), |_| Err(failure()))
    }

    fn stop(&mut self) -> Result<(), DirtyError> {
        Ok(())
    }
}

fn failure() -> DirtyError {
    DirtyError::System {
        name: "coarse",
        call: "harvest",
        source: std::io::Error::other("told to fail"),
    }
}

struct Machine {
    tracker: DirtyTracker,
    marker: WriteMarker,
    coarse: Arc<DirtyBitmap>,
    failing: Arc<Mutex<Option<bool>>>,
}

fn machine() -> Machine {
    let (writes, marker) = VmmWrites::new(layout());
    let coarse = Arc::new(DirtyBitmap::new(PAGES));
    let failing = Arc::new(Mutex::new(None));
    let source = Coarse {
        layout: layout(),
        bits: coarse.clone(),
        failing: failing.clone(),
    };
    let tracker = DirtyTracker::new(layout(), vec![Box::new(writes), Box::new(source)]).unwrap();
    Machine {
        tracker,
        marker,
        coarse,
        failing,
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// The VMM writes a page, or a vCPU does.
    Write(u64, bool),
    Harvest,
    /// A consumer takes an epoch.
    Epoch(usize),
    /// The nth epoch that is still held is committed, dropped or leaked.
    Commit(usize),
    Drop(usize),
    Leak(usize),
    /// The next harvest fails, after or before it took the bits from the source.
    Fail(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..PAGES, any::<bool>()).prop_map(|(page, vmm)| Step::Write(page, vmm)),
        1 => Just(Step::Harvest),
        3 => (0..2usize).prop_map(Step::Epoch),
        3 => (0..4usize).prop_map(Step::Commit),
        1 => (0..4usize).prop_map(Step::Drop),
        1 => (0..4usize).prop_map(Step::Leak),
        1 => any::<bool>().prop_map(Step::Fail),
    ]
}

/// An epoch, and the memory at the instant when it was closed.
struct Held {
    epoch: DirtyEpoch,
    consumer: usize,
    memory: Vec<u64>,
}

proptest! {
    // spec: DRT-01
    #[test]
    fn base_and_epoch_give_the_memory_of_the_instant(
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let machine = machine();
        let consumers = [machine.tracker.subscribe(None), machine.tracker.subscribe(None)];
        let mut memory = vec![0; PAGES as usize];
        let mut contents: BTreeMap<[u8; 16], Vec<u64>> = BTreeMap::new();
        let mut bases: [Option<SnapshotRef>; 2] = [None; 2];
        let mut held: Vec<Held> = Vec::new();
        for (version, step) in (1..).zip(steps) {
            match step {
                Step::Write(page, vmm) => {
                    memory[page as usize] = version;
                    if vmm {
                        machine.marker.mark(PageRange::new(page, 1));
                    } else {
                        machine.coarse.set(PageIndex(page));
                    }
                }
                Step::Harvest => drop(machine.tracker.harvest()),
                Step::Fail(after) => *machine.failing.lock().unwrap() = Some(after),
                Step::Epoch(consumer) => {
                    let epoch = machine.tracker.epoch(consumers[consumer]).unwrap();
                    prop_assert_eq!(epoch.base(), bases[consumer]);
                    // The diff over its base is the memory of now, page for page.
                    let base = epoch.base().map(|base| contents[&base.id.0].clone());
                    for page in 0..PAGES {
                        let now = memory[page as usize];
                        let clean = !epoch.pages().is_set(PageIndex(page));
                        let before = base.as_ref().map(|base| base[page as usize]);
                        prop_assert!(!clean || before == Some(now), "page {page} is lost");
                    }
                    held.push(Held { epoch, consumer, memory: memory.clone() });
                }
                Step::Commit(n) if n < held.len() => {
                    let Held { epoch, consumer, memory } = held.remove(n);
                    let published = named(version);
                    let current = epoch.base() == bases[consumer];
                    let result = epoch.commit(published);
                    prop_assert_eq!(result.is_ok(), current);
                    if current {
                        bases[consumer] = Some(published);
                        contents.insert(published.id.0, memory);
                    }
                }
                Step::Drop(n) if n < held.len() => drop(held.remove(n)),
                Step::Leak(n) if n < held.len() => std::mem::forget(held.remove(n).epoch),
                Step::Commit(_) | Step::Drop(_) | Step::Leak(_) => {}
            }
        }
    }
}

fn pages(epoch: &DirtyEpoch) -> Vec<PageRange> {
    epoch.pages().iter_runs().collect()
}

// spec: DRT-02
#[test]
fn sources_of_different_granules_are_united() {
    let machine = machine();
    let consumer = machine.tracker.subscribe(Some(named(0)));
    machine.marker.mark(PageRange::new(1, 1));
    machine.coarse.set(PageIndex(9));
    machine.coarse.set(PageIndex(129));
    let epoch = machine.tracker.epoch(consumer).unwrap();
    let expected = [(1, 1), (8, 4), (128, 2)].map(|(at, n)| PageRange::new(at, n));
    assert_eq!(pages(&epoch), expected);
    assert_eq!(epoch.base(), Some(named(0)));
}

// spec: DRT-03
#[test]
fn only_a_commit_drops_bits() {
    let machine = machine();
    let consumer = machine.tracker.subscribe(Some(named(0)));
    machine.marker.mark(PageRange::new(1, 1));
    drop(machine.tracker.epoch(consumer).unwrap());
    std::mem::forget(machine.tracker.epoch(consumer).unwrap());
    let epoch = machine.tracker.epoch(consumer).unwrap();
    machine.marker.mark(PageRange::new(3, 1));
    assert_eq!(pages(&epoch), [PageRange::new(1, 1)]);
    std::thread::spawn(move || epoch.commit(named(1)))
        .join()
        .unwrap()
        .unwrap();
    let next = machine.tracker.epoch(consumer).unwrap();
    assert_eq!(pages(&next), [PageRange::new(3, 1)]);
    assert_eq!(next.base(), Some(named(1)));
}

// spec: DRT-04
#[test]
fn a_failed_harvest_marks_every_page() {
    for after in [false, true] {
        let machine = machine();
        let consumer = machine.tracker.subscribe(Some(named(0)));
        *machine.failing.lock().unwrap() = Some(after);
        let epoch = machine.tracker.epoch(consumer).unwrap();
        assert_eq!(pages(&epoch), [PageRange::new(0, PAGES)]);
        assert_eq!(epoch.failures().len(), 1);
        epoch.commit(named(1)).unwrap();
        let next = machine.tracker.epoch(consumer).unwrap();
        assert!(next.failures().is_empty() && next.pages().is_clean());
    }
}

// spec: DRT-05
#[test]
fn an_overtaken_epoch_cannot_be_committed() {
    let machine = machine();
    let consumer = machine.tracker.subscribe(Some(named(0)));
    let first = machine.tracker.epoch(consumer).unwrap();
    machine.marker.mark(PageRange::new(5, 1));
    let second = machine.tracker.epoch(consumer).unwrap();
    second.commit(named(1)).unwrap();
    let error = first.commit(named(2)).unwrap_err();
    assert!(matches!(error, DirtyError::WrongBase { .. }), "{error}");
    assert_eq!(machine.tracker.base(consumer).unwrap(), Some(named(1)));
}

#[test]
fn a_consumer_that_left_is_unknown() {
    let machine = machine();
    let consumer = machine.tracker.subscribe(None);
    let epoch = machine.tracker.epoch(consumer).unwrap();
    machine.tracker.unsubscribe(consumer);
    for error in [
        epoch.commit(named(1)).unwrap_err(),
        machine.tracker.epoch(consumer).unwrap_err(),
    ] {
        assert!(matches!(error, DirtyError::UnknownConsumer), "{error}");
    }
}

#[test]
fn a_source_of_other_memory_is_refused() {
    let (source, _) = VmmWrites::new(MemoryLayout::single(PAGE_BYTES).unwrap());
    let error = DirtyTracker::new(layout(), vec![Box::new(source)]).unwrap_err();
    assert!(matches!(error, DirtyError::LayoutDiffers { .. }), "{error}");
}
