//! A machine whose snapshots are taken in one way or the other, and broken at each of their steps.
#![expect(clippy::panic, reason = "an unexpected end fails the test")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use snapshot_format::{MemoryLayout, PageRange};
use snapshot_memory::{
    BlindSpot, BlindSpots, ConsumerId, DirtyBitmap, DirtyError, DirtyGuarantee, DirtySource,
    DirtyTracker, GuestMemorySource, MappedMemory, MappingOptions, VmmWrites, WriteMarker,
};

use super::{Break, FakeDevices, FakeState, FakeVcpus, MemorySink, Script};
use crate::error::SnapshotError;
use crate::live::{LiveOptions, LiveRequest, live_snapshot};
use crate::snapshot::{Captured, Machine, Selection, SnapshotRequest, snapshot};

/// Pages of its memory.
pub(crate) const PAGES: u64 = 64;

/// A machine whose first snapshot is not taken yet.
pub(crate) struct Bench {
    pub(crate) memory: Arc<MappedMemory>,
    pub(crate) sink: MemorySink,
    pub(crate) script: Script,
    pub(crate) tracker: DirtyTracker,
    pub(crate) marker: WriteMarker,
    pub(crate) consumer: ConsumerId,
}

/// Names no page, and records each harvest.
pub(crate) struct Harvests {
    pub(crate) script: Script,
    pub(crate) layout: MemoryLayout,
}

impl DirtySource for Harvests {
    fn name(&self) -> &'static str {
        "fake"
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
        4096
    }

    fn start(&mut self) -> Result<(), DirtyError> {
        Ok(())
    }

    fn harvest(&mut self, _: &DirtyBitmap) -> Result<(), DirtyError> {
        self.script
            .reach("harvest")
            .map_err(|error| DirtyError::System {
                name: "fake",
                call: "harvest",
                source: std::io::Error::other(error),
            })
    }

    fn stop(&mut self) -> Result<(), DirtyError> {
        Ok(())
    }
}

impl Bench {
    /// With a source whose harvests are steps, too.
    pub(crate) fn with_harvests(script: &Script) -> Self {
        Self::new(script, true)
    }

    /// With the marks of its own writes alone.
    pub(crate) fn with_marks(script: &Script) -> Self {
        Self::new(script, false)
    }

    fn new(script: &Script, records_harvests: bool) -> Self {
        let layout = MemoryLayout::single(PAGES * 4096).unwrap();
        let memory = MappedMemory::new(layout.clone(), MappingOptions::default()).unwrap();
        memory.write(5 * 4096, b"five").unwrap();
        let (writes, marker) = VmmWrites::new(layout.clone());
        let mut sources: Vec<Box<dyn DirtySource>> = vec![Box::new(writes)];
        if records_harvests {
            sources.push(Box::new(Harvests {
                script: script.clone(),
                layout: layout.clone(),
            }));
        }
        let tracker = DirtyTracker::new(layout, sources).unwrap();
        let consumer = tracker.subscribe(None);
        Self {
            memory: Arc::new(memory),
            sink: MemorySink::new(script.clone()),
            script: script.clone(),
            tracker,
            marker,
            consumer,
        }
    }

    pub(crate) fn write(&self, page: u64, byte: u8) {
        self.memory.write(page * 4096, &[byte]).unwrap();
        self.marker.mark(PageRange::new(page, 1));
    }

    pub(crate) fn full(&self) -> Selection<'_> {
        let (tracker, consumer) = (&self.tracker, self.consumer);
        Selection::FullTracked { tracker, consumer }
    }

    pub(crate) fn diff(&self) -> Selection<'_> {
        let (tracker, consumer) = (&self.tracker, self.consumer);
        Selection::Diff { tracker, consumer }
    }

    /// Takes a snapshot of the machine while it stands still.
    pub(crate) fn take(&self, selection: Selection<'_>) -> Result<Captured, SnapshotError> {
        self.with_machine(&*self.memory, |machine| {
            let request = SnapshotRequest {
                sink: &mut self.sink.clone(),
                selection,
                cancel: self.script.cancel(),
                room_bytes: None,
            };
            snapshot(machine, request)
        })
    }

    /// Takes a live snapshot of `memory`, which may write to itself while it is read.
    pub(crate) fn take_live(
        &self,
        memory: &dyn GuestMemorySource,
        selection: Selection<'_>,
        options: LiveOptions<'_>,
    ) -> Result<Captured, SnapshotError> {
        self.with_machine(memory, |machine| {
            let request = LiveRequest {
                sink: &mut self.sink.clone(),
                selection,
                cancel: self.script.cancel(),
                room_bytes: None,
                options,
            };
            live_snapshot(machine, request)
        })
    }

    fn with_machine<T>(
        &self,
        memory: &dyn GuestMemorySource,
        take: impl FnOnce(Machine<'_>) -> T,
    ) -> T {
        take(Machine {
            vcpus: &mut FakeVcpus(self.script.clone()),
            devices: &mut FakeDevices(self.script.clone()),
            state: &mut FakeState {
                script: self.script.clone(),
                ..FakeState::default()
            },
            memory,
        })
    }

    /// Whatever was stopped runs again, once, in reverse order; nothing is published, and the pages
    /// are still dirty.
    fn check_undone(&self, what: &str) {
        let reached = self.script.reached();
        for (done, undone) in [("stop", "resume vcpus"), ("quiesce", "resume devices")] {
            let (done, undone) = (self.script.count(done), self.script.count(undone));
            assert_eq!(done, undone, "{what}: {reached:?}");
        }
        let place = |name: &str| reached.iter().position(|step| step == name);
        if let (Some(devices), Some(vcpus)) = (place("resume devices"), place("resume vcpus")) {
            assert!(devices < vcpus, "{what}: {reached:?}");
        }
        assert_eq!(self.sink.kept().len(), 0, "{what}");
        let epoch = self.tracker.epoch(self.consumer).unwrap();
        assert_eq!(epoch.base(), None, "{what}");
        assert_eq!(epoch.pages().count(), PAGES, "{what}");
    }
}

/// A way of taking a first, full snapshot, and its steps in their one order.
pub(crate) struct Way {
    pub(crate) steps: &'static [&'static str],
    pub(crate) bench: fn(&Script) -> Bench,
    pub(crate) take: fn(&Bench) -> Result<Captured, SnapshotError>,
}

impl Way {
    /// Breaks it so at each of its steps: the machine must run again, exactly once.
    pub(crate) fn break_each_step(&self, how: Break) {
        for &step in self.steps {
            // A source that fails is answered by taking all pages.
            if (step, how) == ("harvest", Break::Error) {
                continue;
            }
            let what = format!("{how:?} at {step}");
            let bench = (self.bench)(&Script::breaking(step, how));
            let taken = catch_unwind(AssertUnwindSafe(|| (self.take)(&bench)));
            // Too late: it is published.
            if (step, how) == ("publish", Break::Cancel) {
                assert_eq!(bench.sink.kept().len(), 1, "{what}");
                continue;
            }
            match (how, taken) {
                (Break::Panic, Err(_))
                | (Break::Cancel, Ok(Err(SnapshotError::Cancelled { .. }))) => {}
                (Break::Error, Ok(Err(error))) => {
                    let is_resume = step.starts_with("resume");
                    let not_resumed = matches!(error, SnapshotError::NotResumed { .. });
                    assert_eq!(is_resume, not_resumed, "{what}: {error}");
                }
                (_, taken) => panic!("{what}: {taken:?}"),
            }
            bench.check_undone(&what);
        }
    }
}
