//! What dirty sources are told of the pause.

use std::panic::{AssertUnwindSafe, catch_unwind};

use snapshot_format::MemoryLayout;
use snapshot_memory::{
    BlindSpots, DirtyBitmap, DirtyError, DirtyGuarantee, DirtySource, DirtyTracker,
    GuestMemorySource,
};

use crate::live::LiveOptions;
use crate::testing::bench::Bench;
use crate::testing::{Break, Script};

/// A source that names nothing, and records what it is asked.
struct Told {
    layout: MemoryLayout,
    script: Script,
}

impl Told {
    fn record(&self, step: &str) {
        self.script.reach(step).unwrap();
    }
}

impl DirtySource for Told {
    fn name(&self) -> &'static str {
        "told"
    }

    fn guarantee(&self) -> DirtyGuarantee {
        DirtyGuarantee::Exact
    }

    fn blind_spots(&self) -> BlindSpots {
        BlindSpots::ALL
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
        self.record("harvest");
        Ok(())
    }

    fn peek(&mut self, _: &DirtyBitmap) -> Result<(), DirtyError> {
        self.record("peek");
        Ok(())
    }

    fn rouse(&mut self) {
        self.record("rouse");
    }

    fn stop(&mut self) -> Result<(), DirtyError> {
        Ok(())
    }
}

fn bench(script: &Script) -> Bench {
    let mut bench = Bench::with_marks(script);
    let layout = bench.memory.layout().clone();
    let told = Told {
        layout: layout.clone(),
        script: script.clone(),
    };
    bench.tracker = DirtyTracker::new(layout, vec![Box::new(told)]).unwrap();
    bench.consumer = bench.tracker.subscribe(None);
    bench
}

// spec: LIV-17
#[test]
fn sources_are_roused_once_between_the_stop_and_the_reading_of_the_state() {
    let script = Script::default();
    let bench = bench(&script);
    let options = LiveOptions::default();
    bench
        .take_live(&*bench.memory, bench.full(), options)
        .unwrap();
    let reached = script.reached();
    let place = |step: &str| reached.iter().position(|one| one == step).unwrap();
    assert_eq!((script.count("rouse"), script.count("peek")), (1, 1));
    assert_eq!(place("rouse"), place("stop") + 1);
    assert!(place("rouse") < place("capture vcpu 0"));
    assert_eq!(place("peek"), place("capture devices") + 1);
    // In the pause it is asked nothing else.
    let pause = &reached[place("stop")..place("resume vcpus")];
    assert!(!pause.iter().any(|step| step == "harvest"));
}

// spec: LIV-13
#[test]
fn a_source_that_panics_when_it_is_roused_does_not_keep_the_machine_from_going_on() {
    let script = Script::breaking("rouse", Break::Panic);
    let bench = bench(&script);
    let take = || bench.take_live(&*bench.memory, bench.full(), LiveOptions::default());
    catch_unwind(AssertUnwindSafe(take)).unwrap_err();
    assert_eq!((script.count("stop"), script.count("resume vcpus")), (1, 1));
}
