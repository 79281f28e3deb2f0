#![expect(clippy::panic, reason = "an unexpected variant fails the test")]

use std::sync::Arc;

use snapshot_format::MemoryLayout;
use snapshot_memory::{GuestMemorySource, MappedMemory, MappingOptions};

use super::*;
use crate::error::SnapshotError;
use crate::step::Step;
use crate::testing::bench::{Bench, Harvests, PAGES, Way};
use crate::testing::{Break, FakeDevices, FakeState, FakeVcpus, Script};

mod directory;

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

/// The machine stands still while memory is written.
const PAUSED: Way = Way {
    steps: &ORDER,
    bench: Bench::with_harvests,
    take: |bench| bench.take(bench.full()),
};

#[test]
fn a_snapshot_goes_through_its_steps_in_the_one_order() {
    let script = Script::default();
    let bench = Bench::with_harvests(&script);
    let captured = bench.take(bench.full()).unwrap();
    assert_eq!(script.reached(), ORDER);
    let kept = bench.sink.kept();
    assert_eq!(kept[0].reference, captured.published.snapshot);
    assert_eq!(&kept[0].image[5 * 4096..5 * 4096 + 4], b"five");
    assert_eq!(kept[0].sections.len(), 5);
    assert!(captured.time.pause_ns() > 0);
}

#[test]
fn a_diff_follows_the_published_snapshot_and_takes_what_was_written_since() {
    let bench = Bench::with_harvests(&Script::default());
    let full = bench.take(bench.full()).unwrap();
    let base = bench.tracker.base(bench.consumer).unwrap();
    assert_eq!(base, Some(full.published.snapshot));
    bench.write(7, 7);
    let diff = bench.take(bench.diff()).unwrap();
    assert_eq!((diff.memory.present, diff.memory.inherited), (1, PAGES - 1));
    let image = &bench.sink.kept()[1].image;
    assert_eq!(&image[5 * 4096..5 * 4096 + 4], b"five");
    assert_eq!(image[7 * 4096], 7);
}

#[test]
fn a_diff_without_a_base_is_refused_before_the_machine_is_stopped() {
    let script = Script::default();
    let bench = Bench::with_harvests(&script);
    let refused = bench.take(bench.diff()).unwrap_err();
    assert!(matches!(refused, SnapshotError::NoBase), "{refused}");
    assert_eq!(script.reached(), Vec::<String>::new());
}

#[test]
fn an_error_at_any_step_resumes_the_machine_exactly_once() {
    PAUSED.break_each_step(Break::Error);
}

#[test]
fn a_panic_at_any_step_resumes_the_machine_exactly_once() {
    PAUSED.break_each_step(Break::Panic);
}

#[test]
fn a_cancel_at_any_step_resumes_the_machine_exactly_once() {
    PAUSED.break_each_step(Break::Cancel);
}

#[test]
fn a_failed_source_is_answered_by_taking_every_page() {
    let mut bench = Bench::with_harvests(&Script::default());
    bench.take(bench.full()).unwrap();
    // The tracker keeps its first source: its script breaks only what comes after.
    let source = Harvests {
        script: Script::breaking("harvest", Break::Error),
        layout: bench.memory.layout().clone(),
    };
    let base = bench.tracker.base(bench.consumer).unwrap();
    bench.tracker = DirtyTracker::new(source.layout.clone(), vec![Box::new(source)]).unwrap();
    bench.consumer = bench.tracker.subscribe(base);
    let taken = bench.take(bench.diff()).unwrap();
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
    let mut bench = Bench::with_harvests(&script);
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
