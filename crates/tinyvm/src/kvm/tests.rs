use hypervisor_bridge::testing::{MemorySink, Script};

use super::KvmGuest;
use crate::tests::{bring_back, can_run, config, take, uninterrupted};
use crate::{Backend, Guest, SnapshotPages};

#[test]
fn a_pending_question_is_answered_once() {
    if !can_run(Backend::Kvm) {
        return;
    }
    let expected = uninterrupted(Backend::Kvm);
    for questions in [1, 7] {
        let mut guest = KvmGuest::boot(&config()).unwrap();
        guest.run_to_question(questions).unwrap();
        let mut sink = MemorySink::new(Script::default());
        let kept = take(&mut guest, SnapshotPages::Full, &mut sink);
        assert_eq!(Box::new(guest).finish().unwrap(), expected);
        let restored = bring_back(Backend::Kvm, &kept).unwrap();
        assert_eq!(restored.finish().unwrap(), expected);
    }
}
