use hypervisor_bridge::testing::{MemorySink, Script};

use super::KvmGuest;
use crate::tests::{bring_back, bring_back_as, can_run, config, take, uninterrupted};
use crate::{Backend, Guest, GuestConfig, Program, SnapshotPages};

#[test]
fn a_pending_question_is_answered_once() {
    if !can_run(Backend::Kvm) {
        return;
    }
    let expected = uninterrupted(Backend::Kvm);
    for questions in [1, 7] {
        let mut guest = KvmGuest::boot(&config()).unwrap();
        // A report comes before each question.
        assert!(guest.run_to_exit(2 * questions).unwrap());
        let mut sink = MemorySink::new(Script::default());
        let kept = take(&mut guest, SnapshotPages::Full, &mut sink);
        assert_eq!(Box::new(guest).finish().unwrap(), expected);
        let restored = bring_back(Backend::Kvm, &kept).unwrap();
        assert_eq!(restored.finish().unwrap(), expected);
    }
}

fn proof(program: Program) -> GuestConfig {
    GuestConfig {
        memory_bytes: 2 << 20,
        steps: 24,
        seed: 42,
        program,
    }
}

#[test]
fn every_proof_ends_as_it_did_before() {
    if !can_run(Backend::Kvm) {
        return;
    }
    for program in Program::PROOFS {
        let run = || Box::new(KvmGuest::boot(&proof(program)).unwrap()).finish();

        let once = run().unwrap();
        assert_eq!(once, run().unwrap(), "{program:?}");
        assert_eq!((once.steps, once.repeated), (24, 0), "{program:?}");
    }
}

#[test]
fn every_proof_is_restored_from_the_middle() {
    if !can_run(Backend::Kvm) {
        return;
    }
    for program in Program::PROOFS {
        let config = proof(program);
        let expected = Box::new(KvmGuest::boot(&config).unwrap()).finish().unwrap();
        let mut guest = KvmGuest::boot(&config).unwrap();
        guest.run(8).unwrap();
        let mut sink = MemorySink::new(Script::default());
        let kept = take(&mut guest, SnapshotPages::Full, &mut sink);
        assert_eq!(Box::new(guest).finish().unwrap(), expected, "{program:?}");
        let mut ended = bring_back_as(Backend::Kvm, config, &kept)
            .and_then(Guest::finish)
            .unwrap();
        assert!(ended.repeated <= 1, "{program:?}: {ended:?}");
        ended.repeated = 0;
        assert_eq!(ended, expected, "{program:?}");
    }
}
