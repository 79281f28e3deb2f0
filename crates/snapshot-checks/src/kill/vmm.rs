//! A VMM: restores the latest snapshot, and takes one after the other.

use hypervisor_bridge::ClockPolicy;
use snapshot_store::{Reference, Store};
use tinyvm::{Guest, Purpose};

use super::task::{SEED, Said, Task, vm_of};
use crate::beside::Beside;
use crate::bring::{Bring, restore};
use crate::random::Random;
use crate::stored_guest::{Failure, Take, config, snapshot};

/// Steps from one snapshot to the next, at most.
const STRETCH: u64 = 128;

pub(super) fn run(task: &Task, store: &Store) -> Result<(), Failure> {
    let mut random = Random::new(task.seed);
    let backend = task.backend();
    let (vm, config) = (vm_of(backend)?, config(SEED));
    let listed = store.list(Some(&vm))?;
    let mut beside = Beside::default();
    let mut guest: Box<dyn Guest> = if listed.snapshots.is_empty() {
        tinyvm::start(backend, &config)?
    } else {
        let latest = store.resolve(&Reference::Latest { vm: vm.clone() })?;
        let bring = Bring::choose(&mut random);
        let purpose = Purpose::Resume(ClockPolicy::Frozen);
        let brought = restore(store, backend, latest, bring, purpose)?;
        beside = Beside::begin(&*brought.guest, brought.working_set, &mut random)?;
        brought.guest
    };
    loop {
        guest.run(random.below(STRETCH))?;
        let take = Take::choose(&mut random, guest.base().is_none());
        let taken = snapshot(store, &vm, guest.as_mut(), &config, take)?;
        Said::Published(taken.published.snapshot.id).say()?;
        std::mem::take(&mut beside).end()?;
    }
}
