//! One machine through its generations.

use hypervisor_bridge::{ClockPolicy, GenerationId};
use snapshot_format::{DataLayout, SnapshotId, VmName};
use snapshot_memory::RelayoutOptions;
use snapshot_store::Store;
use tinyvm::{Backend, GENERATION_ADDRESS, Guest, GuestConfig, Purpose, Replay};

use crate::random::Random;
use crate::stored_guest::{
    Bring, Failure, Take, compare_guest, compare_image, config, discard, position, restore,
    snapshot,
};

/// Steps that a guest does at most before and after a look at it.
const STRETCH: u64 = 256;

/// One in so many generations is a clone, gives pages back, is looked at on its way, has a snapshot
/// laid out anew that it may run from, or has the oldest deleted.
const CLONE: u64 = 4;
const DISCARD: u64 = 2;
const LOOK: u64 = 3;
const RELAYOUT: u64 = 3;
const DELETE: u64 = 5;

/// A machine and what its latest snapshot must hold.
pub(super) struct Lineage {
    pub(super) backend: Backend,
    vm: VmName,
    config: GuestConfig,
    replay: Replay,
    /// The snapshots from which the next generation may be a diff, oldest first.
    snapshots: Vec<SnapshotId>,
}

/// How a generation came and went.
pub(super) struct Lived {
    pub(super) bring: Option<Bring>,
    pub(super) take: Take,
}

impl Lineage {
    pub(super) fn new(backend: Backend, vm: VmName, random: &mut Random) -> Result<Self, Failure> {
        let config = config(random.next());
        Ok(Self {
            backend,
            vm,
            config,
            replay: Replay::new(&config)?,
            snapshots: Vec::new(),
        })
    }

    /// One generation.
    pub(super) fn live(&mut self, store: &Store, random: &mut Random) -> Result<Lived, Failure> {
        let (bring, mut running) = self.bring(store, random)?;
        let guest = running.as_mut();
        guest.run(random.below(STRETCH))?;
        if random.is_one_in(DISCARD) {
            discard(guest, &mut self.replay, random)?;
            guest.run(random.below(STRETCH))?;
        }
        if random.is_one_in(LOOK) {
            compare_guest(guest, &mut self.replay)?;
            guest.run(random.below(STRETCH))?;
        }
        let take = Take::choose(random, bring.is_none());
        let taken = snapshot(store, &self.vm, guest, &self.config, take)?;
        let id = taken.published.snapshot.id;
        self.replay.advance(position(store, self.backend, id)?)?;
        compare_image(store, id, &self.replay)?;
        self.snapshots.push(id);
        if random.is_one_in(RELAYOUT) {
            self.relayout(store, random)?;
        }
        // It runs on, with all that it inherited and all that is brought from here on.
        guest.run(random.below(STRETCH))?;
        compare_guest(guest, &mut self.replay.clone())?;
        // What it runs from is in use.
        drop(running);
        if random.is_one_in(DELETE) && self.snapshots.len() > 2 {
            let oldest = self.snapshots.remove(0);
            store.delete(&store.plan_delete(oldest)?)?;
        }
        Ok(Lived { bring, take })
    }

    /// The guest of the latest snapshot, or the first one.
    fn bring(
        &mut self,
        store: &Store,
        random: &mut Random,
    ) -> Result<(Option<Bring>, Box<dyn Guest>), Failure> {
        let Some(&latest) = self.snapshots.last() else {
            return Ok((None, tinyvm::start(self.backend, &self.config)?));
        };
        let bring = Bring::choose(random);
        let clock = ClockPolicy::Frozen;
        let purpose = if random.is_one_in(CLONE) {
            let generation = GenerationId::random()?;
            self.replay.write(GENERATION_ADDRESS.0, &generation.0);
            Purpose::Clone { clock, generation }
        } else {
            Purpose::Resume(clock)
        };
        let guest = restore(store, self.backend, latest, bring, purpose)?;
        Ok((Some(bring), guest))
    }

    /// Lays one of the snapshots out anew: maybe one that the running guest gets its pages from.
    fn relayout(&self, store: &Store, random: &mut Random) -> Result<(), Failure> {
        let Some(&id) = random.pick(&self.snapshots) else {
            return Ok(());
        };
        let layouts = [DataLayout::Sparse, DataLayout::Packed, DataLayout::Frames];
        let layout = random.pick(&layouts).copied();
        let layout = layout.unwrap_or(DataLayout::Sparse);
        store.relayout(id, &RelayoutOptions::of(layout))?;
        Ok(())
    }
}
