//! A disk that breaks, at every call.

use snapshot_memory::backend::{Fault, FaultBackend};
use snapshot_memory::{PublishError, SinkError};

use crate::machine::Failure;
use crate::rig::{LARGE, Rig, SMALL};

const EIO: i32 = libc::EIO;

/// What a file system says that takes no direct writes after all.
const NO_DIRECT_WRITES: Fault = Fault::Errno(libc::EINVAL);

// spec: MEM-07
// spec: MEM-20
#[test]
fn a_call_that_fails_is_named_and_leaves_no_trace() {
    let faults = [
        Fault::Errno(EIO),
        Fault::Errno(libc::ENOSPC),
        NO_DIRECT_WRITES,
        Fault::Partial {
            bytes: 1,
            errno: EIO,
        },
        Fault::Partial {
            bytes: 4095,
            errno: libc::ENOSPC,
        },
    ];
    for rig in Rig::all(SMALL) {
        for fault in faults {
            assert_calls(&rig, fault, usize::MAX);
        }
    }
}

// spec: MEM-21
#[test]
fn a_call_that_fails_while_several_buffers_are_under_way_leaves_no_trace() {
    for rig in Rig::all(LARGE) {
        let fault = Fault::Partial {
            bytes: 8192,
            errno: EIO,
        };
        assert_calls(&rig, fault, 20);
    }
}

/// Fails each call, or about so many of them.
fn assert_calls(rig: &Rig, fault: Fault, count: usize) {
    let whole = FaultBackend::new(&rig.before);
    rig.attempt(&whole, rig.options()).unwrap();
    let calls = whole.calls();
    assert!(calls.len() > 10, "{}: {} calls", rig.name, calls.len());
    for number in (0..calls.len()).step_by(calls.len().div_ceil(count)) {
        let backend = FaultBackend::new(&rig.before);
        backend.fail_at(number + 1, fault);
        let call = &calls[number];
        let how = format!("{} {} with {fault:?}", call.operation, call.path);
        let taken = rig.attempt(&backend, rig.options());
        if taken.is_ok() {
            // What is refused past the cache goes through it; that all is there was seen.
            let is_refused = fault == NO_DIRECT_WRITES && call.operation == "write";
            assert!(is_refused, "{}: {how}: {taken:?}", rig.name);
            continue;
        }
        let failure = taken.unwrap_err();
        let text = failure.text();
        let uncertain = matches!(
            failure,
            Failure::Publish(PublishError::DurabilityUncertain { .. })
        );
        // Only the directory's own sync comes after the name is there.
        assert_eq!(
            uncertain,
            number + 1 == calls.len(),
            "{}: {how}: {text}",
            rig.name
        );
        if uncertain {
            continue;
        }
        let is_typed = match failure.not_committed() {
            Some(SinkError::File(error)) => {
                let made = &backend.calls()[number];
                made.path.ends_with(error.path.name()) || made.path.contains(error.path.as_str())
            }
            _ => false,
        };
        assert!(is_typed, "{}: {how}: {text}", rig.name);
        rig.assert_untouched(&backend, &how);
    }
}
