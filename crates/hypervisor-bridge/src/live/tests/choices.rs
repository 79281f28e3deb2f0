//! Guests that write faster than rounds do, and last pages that are too many.

use std::sync::Mutex;

use snapshot_format::{MemoryLayout, PageRange};
use snapshot_memory::{GuestMemorySource, HostRun, MappedMemory, MemoryError, WriteMarker};

use crate::error::SnapshotError;
use crate::live::{Behind, LiveOptions, Overflow, Slowed, Throttle, WhenBehind};
use crate::testing::Script;
use crate::testing::bench::{Bench, PAGES};

/// Memory whose guest writes so many pages whenever some of it is read.
struct Busy<'a> {
    memory: &'a MappedMemory,
    marker: &'a WriteMarker,
    script: &'a Script,
    state: Mutex<State>,
}

struct State {
    /// Pages written during each read of a round, the last from then on.
    writes: Vec<u64>,
    value: u8,
}

impl<'a> Busy<'a> {
    fn new(bench: &'a Bench, writes: &[u64]) -> Self {
        Self {
            memory: &bench.memory,
            marker: &bench.marker,
            script: &bench.script,
            state: Mutex::new(State {
                writes: writes.to_vec(),
                value: 0,
            }),
        }
    }

    fn is_stopped(&self) -> bool {
        self.script.count("stop") > self.script.count("resume vcpus")
    }

    /// Lets the guest write less from now on.
    fn slow(&self, writes: u64) {
        self.state.lock().unwrap().writes = vec![writes];
    }
}

impl GuestMemorySource for Busy<'_> {
    fn layout(&self) -> &MemoryLayout {
        self.memory.layout()
    }

    fn read_pages(&self, pages: PageRange, out: &mut [u8]) -> Result<(), MemoryError> {
        self.memory.read_pages(pages, out)?;
        if self.is_stopped() {
            return Ok(());
        }
        let mut state = self.state.lock().unwrap();
        state.value = state.value.wrapping_add(1);
        let count = match state.writes.len() {
            1 => state.writes[0],
            _ => state.writes.remove(0),
        };
        for page in 0..count {
            self.memory.write(page * 4096, &[state.value])?;
        }
        self.marker.mark(PageRange::new(0, count));
        Ok(())
    }

    fn host_run(&self, _: PageRange) -> Option<HostRun<'_>> {
        None
    }
}

fn options<'h>() -> LiveOptions<'h> {
    LiveOptions {
        threshold_pages: 4,
        max_rounds: 5,
        ..LiveOptions::default()
    }
}

fn memory_of(memory: &MappedMemory) -> Vec<u8> {
    let mut bytes = vec![0; memory.len_bytes()];
    memory.read(0, &mut bytes).unwrap();
    bytes
}

// spec: LIV-14
#[test]
fn rounds_go_on_while_they_shrink_and_the_pause_takes_what_the_last_left() {
    let bench = Bench::with_marks(&Script::default());
    let busy = Busy::new(&bench, &[40, 16, 3, 2]);
    let captured = bench.take_live(&busy, bench.full(), options()).unwrap();
    let live = captured.metrics.live.unwrap();
    let pages: Vec<u64> = live.rounds.iter().map(|round| round.pages).collect();
    assert_eq!(pages, [PAGES, 40, 16, 3]);
    assert_eq!((live.aside_pages, live.is_behind), (2, false));
    assert!(bench.sink.kept()[0].image == memory_of(&bench.memory));
}

// spec: LIV-16
#[test]
fn small_rounds_are_followed_by_others_while_they_shrink_down_to_a_few_pages() {
    let small = || LiveOptions {
        threshold_pages: 60,
        ..LiveOptions::default()
    };
    let rounds = |writes: &[u64]| {
        let bench = Bench::with_marks(&Script::default());
        let busy = Busy::new(&bench, writes);
        let captured = bench.take_live(&busy, bench.full(), small()).unwrap();
        assert!(bench.sink.kept()[0].image == memory_of(&bench.memory));
        let live = captured.metrics.live.unwrap();
        assert!(!live.is_behind);
        let pages: Vec<u64> = live.rounds.iter().map(|round| round.pages).collect();
        (pages, live.aside_pages)
    };
    assert_eq!(rounds(&[60, 44, 32, 30]), (vec![PAGES, 60, 44, 32], 30));
    // The third is no quarter smaller: what it left is as many again.
    assert_eq!(rounds(&[60, 44, 43, 7]), (vec![PAGES, 60, 44, 43], 7));
    assert_eq!(rounds(&[60, 60, 60]), (vec![PAGES, 60, 60], 60));
    // As many as the guest is asked to write, and it counts as caught all the same.
    assert_eq!(rounds(&[60, 44, 60]), (vec![PAGES, 60, 44, 60], 60));
}

// spec: LIV-14
#[test]
fn a_guest_that_is_too_fast_is_paused_for_longer_unless_told_otherwise() {
    let bench = Bench::with_marks(&Script::default());
    let busy = Busy::new(&bench, &[50]);
    let mut small = options();
    small.aside_bytes = 10 * 4096;
    let captured = bench.take_live(&busy, bench.full(), small).unwrap();
    let live = captured.metrics.live.unwrap();
    assert!(live.is_behind);
    assert!((2..=5).contains(&live.rounds.len()), "{live:?}");
    // More than fits aside: written with the machine waiting.
    assert_eq!((live.aside_pages, live.paused_pages), (0, 50));
    assert!(bench.sink.kept()[0].image == memory_of(&bench.memory));
}

// spec: LIV-14
#[test]
fn giving_up_on_a_guest_never_stops_it() {
    let bench = Bench::with_marks(&Script::default());
    let busy = Busy::new(&bench, &[50]);
    let mut gives_up = options();
    gives_up.when_behind = WhenBehind::GiveUp;
    let failed = bench.take_live(&busy, bench.full(), gives_up).unwrap_err();
    let SnapshotError::Behind { rounds, pages } = failed else {
        panic!("{failed}");
    };
    assert_eq!(pages, 50);
    assert!(rounds <= 5);
    assert_eq!(bench.script.count("stop"), 0);
    assert_eq!(bench.sink.kept().len(), 0);
}

/// Slows a guest down in steps.
struct Steps<'a> {
    busy: &'a Busy<'a>,
    speeds: Vec<u64>,
    then: Slowed,
    calls: Vec<&'static str>,
}

impl Throttle for Steps<'_> {
    fn slow(&mut self, behind: &Behind) -> Slowed {
        assert!(behind.pages > 4 && behind.rounds > 0);
        self.calls.push("slow");
        if self.speeds.is_empty() {
            return self.then;
        }
        self.busy.slow(self.speeds.remove(0));
        Slowed::Slower
    }

    fn lift(&mut self) {
        assert!(!self.busy.is_stopped());
        self.calls.push("lift");
    }
}

// spec: LIV-15
#[test]
fn a_guest_that_is_slowed_down_is_caught_and_let_go() {
    let bench = Bench::with_marks(&Script::default());
    let busy = Busy::new(&bench, &[50]);
    let mut hook = Steps {
        busy: &busy,
        speeds: vec![20, 2],
        then: Slowed::GiveUp,
        calls: Vec::new(),
    };
    let mut throttled = options();
    throttled.when_behind = WhenBehind::Throttle(&mut hook);
    let captured = bench.take_live(&busy, bench.full(), throttled).unwrap();
    let live = captured.metrics.live.unwrap();
    assert_eq!((live.slowed, live.is_behind), (2, true));
    assert!(live.aside_pages <= 4);
    assert_eq!(hook.calls, ["slow", "slow", "lift"]);
    assert!(bench.sink.kept()[0].image == memory_of(&bench.memory));
}

// spec: LIV-15
#[test]
fn a_hook_that_does_not_help_is_asked_a_bounded_number_of_times() {
    for (then, gives_up) in [
        (Slowed::Slower, false),
        (Slowed::GiveUp, true),
        (Slowed::Pause, false),
    ] {
        let bench = Bench::with_marks(&Script::default());
        let busy = Busy::new(&bench, &[50]);
        let mut hook = Steps {
            busy: &busy,
            speeds: Vec::new(),
            then,
            calls: Vec::new(),
        };
        let mut throttled = options();
        throttled.when_behind = WhenBehind::Throttle(&mut hook);
        let taken = bench.take_live(&busy, bench.full(), throttled);
        assert_eq!(taken.is_err(), gives_up, "{then:?}");
        assert_eq!(hook.calls.last(), Some(&"lift"), "{then:?}");
        let lifts = hook.calls.iter().filter(|call| **call == "lift");
        assert_eq!(lifts.count(), 1, "{then:?}");
        assert!(hook.calls.len() <= 8, "{then:?}: {:?}", hook.calls);
    }
}

/// One page is written with each read, and many just before the machine is stopped.
fn overflowing(
    bench: &Bench,
    overflow: Overflow,
) -> Result<crate::live::LiveReport, SnapshotError> {
    let busy = Busy::new(bench, &[30]);
    let options = LiveOptions {
        threshold_pages: PAGES,
        aside_bytes: 10 * 4096,
        overflow,
        max_rounds: 3,
        ..LiveOptions::default()
    };
    let captured = bench.take_live(&busy, bench.full(), options)?;
    assert!(bench.sink.kept()[0].image == memory_of(&bench.memory));
    Ok(captured.metrics.live.unwrap_or_default())
}

// spec: LIV-08
#[test]
fn last_pages_that_are_too_many_are_written_tried_again_or_given_up() {
    let bench = Bench::with_marks(&Script::default());
    let live = overflowing(&bench, Overflow::Write).unwrap();
    assert_eq!((live.paused_pages, live.retries), (30, 0));

    // As many pauses as rounds; then they are written.
    let bench = Bench::with_marks(&Script::default());
    let live = overflowing(&bench, Overflow::Retry).unwrap();
    assert_eq!((live.paused_pages, live.retries), (30, 3));
    let stops = ["stop", "resume devices", "resume vcpus"].map(|step| bench.script.count(step));
    assert_eq!(stops, [4, 4, 4]);

    let bench = Bench::with_marks(&Script::default());
    let failed = overflowing(&bench, Overflow::GiveUp).unwrap_err();
    assert!(matches!(failed, SnapshotError::Sink { .. }), "{failed}");
    assert_eq!(bench.script.count("resume vcpus"), 1);
}
