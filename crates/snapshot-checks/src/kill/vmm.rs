//! A VMM: restores the latest snapshot, and takes one after the other.

use hypervisor_bridge::ClockPolicy;
use snapshot_store::{Reference, Store};
use tinyvm::{Guest, Purpose};

use super::task::{SEED, Said, Task, vm_of};
use crate::random::Random;
use crate::stored_guest::{Bring, Failure, Take, config, restore, snapshot};

/// Steps from one snapshot to the next, at most.
const STRETCH: u64 = 128;

pub(super) fn run(task: &Task, store: &Store) -> Result<(), Failure> {
    let mut random = Random::new(task.seed);
    let backend = task.backend();
    let (vm, config) = (vm_of(backend)?, config(SEED));
    let listed = store.list(Some(&vm))?;
    let mut guest: Box<dyn Guest> = if listed.snapshots.is_empty() {
        tinyvm::start(backend, &config)?
    } else {
        let latest = store.resolve(&Reference::Latest { vm: vm.clone() })?;
        let bring = Bring::choose(&mut random);
        restore(
            store,
            backend,
            latest,
            bring,
            Purpose::Resume(ClockPolicy::Frozen),
        )?
    };
    loop {
        guest.run(random.below(STRETCH))?;
        let take = Take::choose(&mut random, guest.base().is_none());
        let taken = snapshot(store, &vm, guest.as_mut(), &config, take)?;
        Said::Published(taken.published.snapshot.id).say()?;
    }
}
