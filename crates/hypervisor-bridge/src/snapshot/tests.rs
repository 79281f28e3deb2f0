#![expect(clippy::panic, reason = "an unexpected variant fails the test")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use snapshot_format::{MemoryLayout, PageIndex};
use snapshot_memory::{
    BlindSpot, BlindSpots, DirtyBitmap, DirtyError, DirtyGuarantee, DirtySource, GuestMemorySource,
    MappedMemory, MappingOptions,
};

use super::*;
use crate::error::SnapshotError;
use crate::step::Step;
use crate::testing::{Break, FakeDevices, FakeState, FakeVcpus, MemorySink, Script};

mod directory;

const PAGES: u64 = 8;

/// Names the last page in each harvest, and records it.
struct FakeSource {
    script: Script,
    layout: MemoryLayout,
}

impl DirtySource for FakeSource {
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

    fn harvest(&mut self, into: &DirtyBitmap) -> Result<(), DirtyError> {
        into.set(PageIndex(PAGES - 1));
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

struct Bench {
    memory: Arc<MappedMemory>,
    sink: MemorySink,
    script: Script,
    tracker: DirtyTracker,
    consumer: ConsumerId,
}

/// A machine whose first, full snapshot is taken; `script` applies to the second, a diff.
fn bench(script: &Script) -> Bench {
    let layout = MemoryLayout::single(PAGES * 4096).unwrap();
    let memory = MappedMemory::new(layout.clone(), MappingOptions::default()).unwrap();
    memory.write(5 * 4096, b"five").unwrap();
    let source = FakeSource {
        script: script.clone(),
        layout: layout.clone(),
    };
    let tracker = DirtyTracker::new(layout, vec![Box::new(source)]).unwrap();
    let consumer = tracker.subscribe(None);
    Bench {
        memory: Arc::new(memory),
        sink: MemorySink::new(script.clone()),
        script: script.clone(),
        tracker,
        consumer,
    }
}

impl Bench {
    fn take(&mut self, diff: bool) -> Result<Captured, SnapshotError> {
        let (tracker, consumer) = (&self.tracker, self.consumer);
        let selection = if diff {
            Selection::Diff { tracker, consumer }
        } else {
            Selection::FullTracked { tracker, consumer }
        };
        let machine = Machine {
            vcpus: &mut FakeVcpus(self.script.clone()),
            devices: &mut FakeDevices(self.script.clone()),
            state: &mut FakeState {
                script: self.script.clone(),
                ..FakeState::default()
            },
            memory: &*self.memory,
        };
        let request = SnapshotRequest {
            sink: &mut self.sink,
            selection,
            cancel: self.script.cancel(),
            room_bytes: None,
        };
        snapshot(machine, request)
    }
}

const ORDER: [&str; 21] = [
    "begin",
    "prepare",
    "stop",
    "notify 0",
    "notify 1",
    "quiesce",
    "capture vcpu 0",
    "capture vcpu 1",
    "capture vm",
    "capture devices",
    "harvest",
    "memory",
    "resume devices",
    "resume vcpus",
    "section",
    "section",
    "section",
    "section",
    "section",
    "seal",
    "publish",
];

#[test]
fn a_snapshot_goes_through_its_steps_in_the_one_order() {
    let script = Script::default();
    let mut bench = bench(&script);
    let captured = bench.take(false).unwrap();
    assert_eq!(script.reached(), ORDER);
    let kept = bench.sink.kept();
    assert_eq!(kept[0].reference, captured.published.snapshot);
    assert_eq!(&kept[0].image[5 * 4096..5 * 4096 + 4], b"five");
    assert_eq!(kept[0].sections.len(), 5);
    assert!(captured.time.pause_ns() > 0);
}

#[test]
fn a_diff_follows_the_published_snapshot_and_takes_what_was_written_since() {
    let mut bench = bench(&Script::default());
    let full = bench.take(false).unwrap();
    let base = bench.tracker.base(bench.consumer).unwrap();
    assert_eq!(base, Some(full.published.snapshot));
    bench.memory.write(7 * 4096, b"seven").unwrap();
    let diff = bench.take(true).unwrap();
    assert_eq!((diff.memory.present, diff.memory.inherited), (1, PAGES - 1));
    let image = &bench.sink.kept()[1].image;
    assert_eq!(&image[5 * 4096..5 * 4096 + 4], b"five");
    assert_eq!(&image[7 * 4096..7 * 4096 + 5], b"seven");
}

#[test]
fn a_diff_without_a_base_is_refused_before_the_machine_is_stopped() {
    let script = Script::default();
    let refused = bench(&script).take(true).unwrap_err();
    assert!(matches!(refused, SnapshotError::NoBase), "{refused}");
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

#[test]
fn an_error_at_any_step_resumes_the_machine_exactly_once() {
    for step in ORDER {
        // A source that fails is answered by taking all pages.
        if step == "harvest" {
            continue;
        }
        let mut bench = bench(&Script::breaking(step, Break::Error));
        let failed = bench.take(false).unwrap_err();
        let resumes = step.starts_with("resume");
        let not_resumed = matches!(failed, SnapshotError::NotResumed { .. });
        assert_eq!(resumes, not_resumed, "{step}: {failed}");
        check_undone(&bench, step, Break::Error);
    }
}

#[test]
fn a_panic_at_any_step_resumes_the_machine_exactly_once() {
    for step in ORDER {
        let mut bench = bench(&Script::breaking(step, Break::Panic));
        let panicked = catch_unwind(AssertUnwindSafe(|| bench.take(false).is_ok()));
        assert!(panicked.is_err(), "{step} did not panic");
        check_undone(&bench, step, Break::Panic);
    }
}

#[test]
fn a_cancel_at_any_step_resumes_the_machine_exactly_once() {
    for step in ORDER {
        let mut bench = bench(&Script::breaking(step, Break::Cancel));
        let taken = bench.take(false);
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

#[test]
fn a_failed_source_is_answered_by_taking_every_page() {
    let mut bench = bench(&Script::default());
    bench.take(false).unwrap();
    // The tracker keeps its first source: its script breaks only what comes after.
    let broken = Script::breaking("harvest", Break::Error);
    let source = FakeSource {
        script: broken.clone(),
        layout: bench.memory.layout().clone(),
    };
    let base = bench.tracker.base(bench.consumer).unwrap();
    bench.tracker = DirtyTracker::new(source.layout.clone(), vec![Box::new(source)]).unwrap();
    bench.consumer = bench.tracker.subscribe(base);
    let taken = bench.take(true).unwrap();
    assert_eq!(taken.memory.present, PAGES);
}

#[test]
fn a_machine_that_is_not_resumed_says_what_had_failed_before() {
    struct Stuck(Script);
    impl VcpuStop for Stuck {
        fn stop(&mut self) -> Result<crate::Paused, crate::StepError> {
            self.0.reach("stop")?;
            Ok(crate::testing::fake_paused())
        }

        fn resume(&mut self) -> Result<(), crate::StepError> {
            Err("stuck".into())
        }
    }
    let script = Script::breaking("quiesce", Break::Error);
    let mut bench = bench(&script);
    let machine = Machine {
        vcpus: &mut Stuck(script.clone()),
        devices: &mut FakeDevices(script.clone()),
        state: &mut FakeState::default(),
        memory: &*bench.memory,
    };
    let request = SnapshotRequest {
        sink: &mut bench.sink,
        selection: Selection::Full,
        cancel: script.cancel(),
        room_bytes: None,
    };
    let failed = snapshot(machine, request).unwrap_err();
    let SnapshotError::NotResumed { step, after, .. } = &failed else {
        panic!("{failed}");
    };
    assert_eq!(*step, Step::ResumeVcpus);
    assert!(after.is_some());
    assert!(
        failed.to_string().contains("quiesce the devices"),
        "{failed}"
    );
}
