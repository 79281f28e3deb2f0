//! What is numbered must not depend on how many threads there are.

use std::num::NonZeroUsize;

use snapshot_memory::backend::FaultBackend;

use crate::rig::{LARGE, Rig};

// spec: MEM-08
#[test]
fn the_calls_are_the_same_with_any_number_of_threads() {
    for rig in Rig::all(LARGE) {
        let [one, two, four] = [1, 2, 4].map(|threads| {
            let backend = FaultBackend::new(&rig.before);
            let options = rig.options().threads(NonZeroUsize::new(threads).unwrap());
            rig.attempt(&backend, options).unwrap();
            let calls = backend.calls().into_iter();
            let name = |path: &str| path.rsplit('/').next().unwrap().to_owned();
            let is_id = |name: &str| name.matches('-').count() >= 4;
            let named = calls.map(|call| (call.operation, name(&call.path)));
            let stable = named.filter(|(_, name)| !is_id(name));
            stable.collect::<Vec<_>>()
        });
        assert_eq!(one, two, "{}", rig.name);
        assert_eq!(one, four, "{}", rig.name);
    }
}
