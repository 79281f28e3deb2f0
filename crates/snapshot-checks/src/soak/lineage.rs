//! One machine through its generations.

use hypervisor_bridge::{ClockPolicy, GenerationId};
use snapshot_format::{DataLayout, SnapshotId, VmName};
use snapshot_memory::RelayoutOptions;
use snapshot_store::{Selection, Store};
use tinyvm::{Backend, GENERATION_ADDRESS, Guest, GuestConfig, Purpose, Replay};

use crate::random::Random;
use crate::stored_guest::{
    Bring, Failure, Take, compare_guest, compare_image, config, position, restore, snapshot,
};

/// Steps that a guest does at most before and after a look at it.
const STRETCH: u64 = 256;

/// One in so many generations is a clone, is looked at on its way, has its snapshot laid out anew,
/// or has one deleted that it comes from.
const CLONE: u64 = 4;
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
        let (bring, mut guest) = self.bring(store, random)?;
        let guest = guest.as_mut();
        guest.run(random.below(STRETCH))?;
        if random.is_one_in(LOOK) {
            compare_guest(guest, &mut self.replay)?;
            guest.run(random.below(STRETCH))?;
        }
        let take = Take::choose(random, bring.is_none());
        let taken = snapshot(store, &self.vm, guest, &self.config, take)?;
        let id = taken.published.snapshot.id;
        self.replay.advance(position(store, self.backend, id)?)?;
        compare_image(store, id, &self.replay)?;
        // It runs on, with all that it inherited and all that was brought since.
        guest.run(random.below(STRETCH))?;
        compare_guest(guest, &mut self.replay.clone())?;
        self.snapshots.push(id);
        self.rearrange(store, random)?;
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
        let bring = random.pick(&Bring::ALL).copied().unwrap_or(Bring::Copied);
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

    /// Changes where the bytes lie that the next generation comes from, or takes snapshots away that
    /// it no longer names.
    fn rearrange(&mut self, store: &Store, random: &mut Random) -> Result<(), Failure> {
        if random.is_one_in(RELAYOUT)
            && let Some(&id) = random.pick(&self.snapshots)
        {
            let layouts = [DataLayout::Sparse, DataLayout::Packed, DataLayout::Frames];
            let layout = random.pick(&layouts).copied();
            let layout = layout.unwrap_or(DataLayout::Sparse);
            store.relayout(id, &RelayoutOptions::of(layout))?;
            store.verify(Selection::One(id), &mut |_| {
                std::ops::ControlFlow::Continue(())
            })?;
        }
        if random.is_one_in(DELETE) && self.snapshots.len() > 2 {
            let id = self.snapshots.remove(0);
            store.delete(&store.plan_delete(id)?)?;
        }
        Ok(())
    }
}
