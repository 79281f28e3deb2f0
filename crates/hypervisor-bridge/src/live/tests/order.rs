//! The order of the steps, and what is left when one of them fails.

use snapshot_format::PageIndex;
use snapshot_memory::DirtyBitmap;

use crate::error::SnapshotError;
use crate::live::LiveOptions;
use crate::snapshot::Selection;
use crate::testing::bench::{Bench, PAGES, Way};
use crate::testing::{Break, Script};

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

/// Memory is written while the machine runs, and in one round.
const LIVE: Way = Way {
    steps: &ORDER,
    bench: Bench::with_marks,
    take: |bench| bench.take_live(&*bench.memory, bench.full(), options()),
};

// spec: LIV-12
#[test]
fn memory_is_written_before_the_pause_and_finished_after_it() {
    let script = Script::default();
    let bench = Bench::with_marks(&script);
    let captured = bench
        .take_live(&*bench.memory, bench.full(), options())
        .unwrap();
    assert_eq!(script.reached(), ORDER);
    let kept = bench.sink.kept();
    assert_eq!(&kept[0].image[5 * 4096..5 * 4096 + 4], b"five");
    assert_eq!(kept[0].sections.len(), 5);
    let live = captured.metrics.live.unwrap();
    assert_eq!((live.rounds.len(), live.rounds[0].pages), (1, PAGES));
    assert!(captured.time.pause_ns() > 0 && captured.time.rounds_ns > 0);
    // The base has moved: a diff takes what was written since.
    bench.write(7, 7);
    let diff = bench
        .take_live(&*bench.memory, bench.diff(), options())
        .unwrap();
    assert_eq!((diff.memory.present, diff.memory.inherited), (1, PAGES - 1));
    assert_eq!(bench.sink.kept()[1].image[7 * 4096], 7);
}

#[test]
fn a_diff_without_a_base_and_memory_that_nobody_tracks_are_refused_at_once() {
    let script = Script::default();
    let bench = Bench::with_marks(&script);
    let refused = bench.take_live(&*bench.memory, bench.diff(), options());
    let refused = refused.unwrap_err();
    assert!(matches!(refused, SnapshotError::NoBase), "{refused}");
    let refused = bench.take_live(&*bench.memory, Selection::Full, options());
    let refused = refused.unwrap_err();
    assert!(matches!(refused, SnapshotError::NotTracked), "{refused}");
    assert_eq!(script.reached(), Vec::<String>::new());
}

// spec: LIV-13
#[test]
fn an_error_at_any_step_resumes_the_machine_exactly_once() {
    LIVE.break_each_step(Break::Error);
}

// spec: LIV-13
#[test]
fn a_panic_at_any_step_resumes_the_machine_exactly_once() {
    LIVE.break_each_step(Break::Panic);
}

// spec: LIV-13
#[test]
fn a_cancel_at_any_step_resumes_the_machine_exactly_once() {
    LIVE.break_each_step(Break::Cancel);
}

// spec: LIV-03
#[test]
fn what_is_written_after_the_pause_is_in_the_next_diff() {
    let bench = Bench::with_marks(&Script::default());
    bench
        .take_live(&*bench.memory, bench.full(), options())
        .unwrap();
    bench.write(9, 1);
    bench
        .take_live(&*bench.memory, bench.diff(), options())
        .unwrap();
    bench.write(10, 2);
    let pages = bench.tracker.epoch(bench.consumer).unwrap();
    let expected = DirtyBitmap::new(PAGES);
    expected.set(PageIndex(10));
    assert_eq!(*pages.pages(), expected);
}
