//! A caller that changes its mind, at every moment that it is told of.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use snapshot_memory::backend::FaultBackend;
use snapshot_memory::{Cancel, CaptureControl, SinkError};

use crate::rig::{LARGE, Rig, SMALL};

// spec: MEM-09
#[test]
fn a_capture_that_is_cancelled_at_any_moment_leaves_no_trace() {
    for rig in Rig::all(SMALL).chain(Rig::all(LARGE)) {
        let told = count(&rig);
        assert!(told > 0, "{}: nobody is told", rig.name);
        for moment in 0..told {
            let backend = FaultBackend::new(&rig.before);
            let cancel = Cancel::default();
            let asker = cancel.clone();
            let calls = AtomicUsize::new(0);
            let control = CaptureControl::default().cancel(cancel).progress(move |_| {
                if calls.fetch_add(1, Ordering::Relaxed) == moment {
                    asker.ask();
                }
            });
            let taken = rig.attempt(&backend, rig.options().control(control));
            let how = format!("cancelled at call {moment} of {told}");
            match taken {
                Err(failure) => {
                    let error = failure.not_committed();
                    let is_typed = matches!(error, Some(SinkError::Cancelled));
                    assert!(is_typed, "{}: {how}: {}", rig.name, failure.text());
                    rig.assert_untouched(&backend, &how);
                }
                // All of the memory had been taken when it was asked for.
                Ok(_) => assert_eq!(moment + 1, told, "{}: {how}", rig.name),
            }
        }
    }
}

#[test]
fn a_capture_that_is_cancelled_before_it_begins_writes_no_page() {
    for rig in Rig::all(SMALL) {
        let backend = FaultBackend::new(&rig.before);
        let cancel = Cancel::default();
        cancel.ask();
        let control = CaptureControl::default().cancel(cancel);
        let taken = rig.attempt(&backend, rig.options().control(control));
        let failure = taken.unwrap_err();
        let is_typed = matches!(failure.not_committed(), Some(SinkError::Cancelled));
        assert!(is_typed, "{}: {}", rig.name, failure.text());
        let calls = backend.calls();
        let is_page = |operation, path: &str| operation == "write" && path.ends_with("memory.img");
        let write = calls
            .iter()
            .find(|call| is_page(call.operation, &call.path));
        assert_eq!(write, None, "{}", rig.name);
        rig.assert_untouched(&backend, "cancelled before");
    }
}

#[test]
fn progress_ends_with_all_of_it() {
    for rig in Rig::all(LARGE) {
        let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
        let seer = seen.clone();
        let control = CaptureControl::default().progress(move |now| seer.lock().unwrap().push(now));
        let backend = FaultBackend::new(&rig.before);
        let (_, stats) = rig
            .attempt(&backend, rig.options().control(control))
            .unwrap();
        let seen = seen.lock().unwrap();
        let last = seen.last().unwrap();
        assert_eq!(last.taken_bytes, last.total_bytes, "{}", rig.name);
        let pages = (stats.present + stats.zero) * 4096;
        assert_eq!(last.total_bytes, pages, "{}", rig.name);
        for pair in seen.windows(2) {
            let step = pair[1].taken_bytes.checked_sub(pair[0].taken_bytes);
            let is_small = step.is_some_and(|step| step <= 2 << 20);
            assert!(is_small, "{}: {pair:?}", rig.name);
            assert!(
                pair[0].written_bytes <= pair[1].written_bytes,
                "{}",
                rig.name
            );
        }
    }
}

/// How often the caller is told while nobody disturbs.
fn count(rig: &Rig) -> usize {
    let told = Arc::new(AtomicUsize::new(0));
    let counter = told.clone();
    let control = CaptureControl::default().progress(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
    });
    let backend = FaultBackend::new(&rig.before);
    rig.attempt(&backend, rig.options().control(control))
        .unwrap();
    told.load(Ordering::Relaxed)
}
