//! The order of the steps, and what is left when one of them fails.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use snapshot_format::{MemoryLayout, PageIndex, PageRange};
use snapshot_memory::{
    ConsumerId, DirtyBitmap, DirtyTracker, GuestMemorySource, MappedMemory, MappingOptions,
    VmmWrites, WriteMarker,
};

use crate::error::SnapshotError;
use crate::live::{LiveOptions, LiveRequest, live_snapshot};
use crate::snapshot::{Captured, Machine, Selection};
use crate::testing::{Break, FakeDevices, FakeState, FakeVcpus, MemorySink, Script};

pub(super) const PAGES: u64 = 64;

/// A machine whose first snapshot is taken live.
pub(super) struct Bench {
    pub(super) memory: Arc<MappedMemory>,
    pub(super) sink: MemorySink,
    pub(super) script: Script,
    pub(super) tracker: DirtyTracker,
    pub(super) marker: WriteMarker,
    pub(super) consumer: ConsumerId,
}

impl Bench {
    pub(super) fn new(script: &Script) -> Self {
        let layout = MemoryLayout::single(PAGES * 4096).unwrap();
        let memory = MappedMemory::new(layout.clone(), MappingOptions::default()).unwrap();
        memory.write(5 * 4096, b"five").unwrap();
        let (writes, marker) = VmmWrites::new(layout.clone());
        let tracker = DirtyTracker::new(layout, vec![Box::new(writes)]).unwrap();
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

    pub(super) fn write(&self, page: u64, byte: u8) {
        self.memory.write(page * 4096, &[byte]).unwrap();
        self.marker.mark(PageRange::new(page, 1));
    }

    pub(super) fn full(&self) -> Selection<'_> {
        let (tracker, consumer) = (&self.tracker, self.consumer);
        Selection::FullTracked { tracker, consumer }
    }

    pub(super) fn diff(&self) -> Selection<'_> {
        let (tracker, consumer) = (&self.tracker, self.consumer);
        Selection::Diff { tracker, consumer }
    }

    /// Takes a live snapshot of `memory`, which may write to itself while it is read.
    pub(super) fn take(
        &self,
        memory: &dyn GuestMemorySource,
        selection: Selection<'_>,
        options: LiveOptions<'_>,
    ) -> Result<Captured, SnapshotError> {
        let machine = Machine {
            vcpus: &mut FakeVcpus(self.script.clone()),
            devices: &mut FakeDevices(self.script.clone()),
            state: &mut FakeState {
                script: self.script.clone(),
                ..FakeState::default()
            },
            memory,
        };
        let request = LiveRequest {
            sink: &mut self.sink.clone(),
            selection,
            cancel: self.script.cancel(),
            room_bytes: None,
            options,
        };
        live_snapshot(machine, request)
    }
}

const ORDER: [&str; 23] = [
    "begin",
    "prepare",
    "live",
    "round",
    "stop",
    "notify 0",
    "notify 1",
    "quiesce",
    "capture vcpu 0",
    "capture vcpu 1",
    "capture vm",
    "capture devices",
    "set aside",
    "resume devices",
    "resume vcpus",
    "finish",
    "section",
    "section",
    "section",
    "section",
    "section",
    "seal",
    "publish",
];

/// One round is enough.
fn options<'h>() -> LiveOptions<'h> {
    LiveOptions {
        threshold_pages: PAGES,
        ..LiveOptions::default()
    }
}

// spec: LIV-12
#[test]
fn memory_is_written_before_the_pause_and_finished_after_it() {
    let script = Script::default();
    let bench = Bench::new(&script);
    let captured = bench.take(&*bench.memory, bench.full(), options()).unwrap();
    assert_eq!(script.reached(), ORDER);
    let kept = bench.sink.kept();
    assert_eq!(&kept[0].image[5 * 4096..5 * 4096 + 4], b"five");
    assert_eq!(kept[0].sections.len(), 5);
    let live = captured.metrics.live.unwrap();
    assert_eq!((live.rounds.len(), live.rounds[0].pages), (1, PAGES));
    assert!(captured.time.pause_ns() > 0 && captured.time.rounds_ns > 0);
    // The base has moved: a diff takes what was written since.
    bench.write(7, 7);
    let diff = bench.take(&*bench.memory, bench.diff(), options()).unwrap();
    assert_eq!((diff.memory.present, diff.memory.inherited), (1, PAGES - 1));
    assert_eq!(bench.sink.kept()[1].image[7 * 4096], 7);
}

#[test]
fn a_diff_without_a_base_and_memory_that_nobody_tracks_are_refused_at_once() {
    let script = Script::default();
    let bench = Bench::new(&script);
    let refused = bench.take(&*bench.memory, bench.diff(), options());
    let refused = refused.unwrap_err();
    assert!(matches!(refused, SnapshotError::NoBase), "{refused}");
    let refused = bench.take(&*bench.memory, Selection::Full, options());
    let refused = refused.unwrap_err();
    assert!(matches!(refused, SnapshotError::NotTracked), "{refused}");
    assert_eq!(script.reached(), Vec::<String>::new());
}

/// Whatever was stopped runs again, once, in reverse order; nothing is published, and the pages
/// are still dirty.
fn check_undone(bench: &Bench, step: &str, how: Break) {
    let what = format!("{how:?} at {step}");
    let reached = bench.script.reached();
    for (done, undone) in [("stop", "resume vcpus"), ("quiesce", "resume devices")] {
        let (done, undone) = (bench.script.count(done), bench.script.count(undone));
        assert_eq!(done, undone, "{what}: {reached:?}");
    }
    let place = |name: &str| reached.iter().position(|step| step == name);
    if let (Some(devices), Some(vcpus)) = (place("resume devices"), place("resume vcpus")) {
        assert!(devices < vcpus, "{what}: {reached:?}");
    }
    assert_eq!(bench.sink.kept().len(), 0, "{what}");
    let epoch = bench.tracker.epoch(bench.consumer).unwrap();
    assert_eq!(epoch.base(), None, "{what}");
    assert_eq!(epoch.pages().count(), PAGES, "{what}");
}

// spec: LIV-13
#[test]
fn an_error_at_any_step_resumes_the_machine_exactly_once() {
    for step in ORDER {
        let bench = Bench::new(&Script::breaking(step, Break::Error));
        let failed = bench.take(&*bench.memory, bench.full(), options());
        let failed = failed.unwrap_err();
        let resumes = step.starts_with("resume");
        let not_resumed = matches!(failed, SnapshotError::NotResumed { .. });
        assert_eq!(resumes, not_resumed, "{step}: {failed}");
        check_undone(&bench, step, Break::Error);
    }
}

// spec: LIV-13
#[test]
fn a_panic_at_any_step_resumes_the_machine_exactly_once() {
    for step in ORDER {
        let bench = Bench::new(&Script::breaking(step, Break::Panic));
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let taken = bench.take(&*bench.memory, bench.full(), options());
            taken.is_ok()
        }));
        assert!(panicked.is_err(), "{step} did not panic");
        check_undone(&bench, step, Break::Panic);
    }
}

// spec: LIV-13
#[test]
fn a_cancel_at_any_step_resumes_the_machine_exactly_once() {
    for step in ORDER {
        let bench = Bench::new(&Script::breaking(step, Break::Cancel));
        let taken = bench.take(&*bench.memory, bench.full(), options());
        // Too late: it is published.
        if step == "publish" {
            assert_eq!(bench.sink.kept().len(), 1, "{taken:?}");
            continue;
        }
        let Err(SnapshotError::Cancelled { .. }) = taken else {
            panic!("{step}: {taken:?}");
        };
        check_undone(&bench, step, Break::Cancel);
    }
}

// spec: LIV-03
#[test]
fn what_is_written_after_the_pause_is_in_the_next_diff() {
    let bench = Bench::new(&Script::default());
    bench.take(&*bench.memory, bench.full(), options()).unwrap();
    bench.write(9, 1);
    bench.take(&*bench.memory, bench.diff(), options()).unwrap();
    bench.write(10, 2);
    let pages = bench.tracker.epoch(bench.consumer).unwrap();
    let expected = DirtyBitmap::new(PAGES);
    expected.set(PageIndex(10));
    assert_eq!(*pages.pages(), expected);
}
