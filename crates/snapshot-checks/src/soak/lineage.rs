//! One machine through its generations.

use hypervisor_bridge::{ClockPolicy, GenerationId};
use snapshot_format::{DataLayout, SnapshotId, VmName};
use snapshot_memory::RelayoutOptions;
use snapshot_store::Store;
use tinyvm::{Backend, GENERATION_ADDRESS, Guest, GuestConfig, Purpose, Replay};

use super::rehearsal::{Recorded, record};
use crate::beside::Beside;
use crate::bring::{Bring, restore};
use crate::random::Random;
use crate::stored_guest::{
    Failure, Take, compare_guest, compare_image, config, discard, position, snapshot,
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

/// One in so many snapshots is run from before its guest goes on, once or twice, to record and
/// refresh its working set; one in so many guests that go on refreshes it, too.
const REHEARSE: u64 = 2;
const REFRESH: u64 = 4;

/// A machine and what its latest snapshot must hold.
pub(super) struct Lineage {
    pub(super) backend: Backend,
    vm: VmName,
    config: GuestConfig,
    replay: Replay,
    /// The snapshots from which the next generation may be a diff, oldest first.
    snapshots: Vec<SnapshotId>,
}

/// What was done in a generation, by its kind.
#[derive(Default)]
pub(super) struct Lived(pub(super) Vec<String>);

impl Lived {
    fn did(&mut self, what: &(impl ToString + ?Sized)) {
        self.0.push(what.to_string());
    }

    fn recorded(&mut self, recorded: Recorded) {
        match recorded {
            Recorded::New => self.did("working set recorded"),
            Recorded::Again => self.did("working set refreshed"),
            Recorded::Nothing => {}
        }
    }
}

/// A guest that goes on, and what is done beside it.
struct Running {
    guest: Box<dyn Guest>,
    beside: Beside,
    /// What it came from.
    from: Option<SnapshotId>,
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
        let mut lived = Lived::default();
        let mut running = self.bring(store, random, &mut lived)?;
        let guest = running.guest.as_mut();
        guest.run(random.below(STRETCH))?;
        if random.is_one_in(DISCARD) {
            discard(guest, &mut self.replay, random)?;
            guest.run(random.below(STRETCH))?;
        }
        if random.is_one_in(LOOK) {
            compare_guest(guest, &mut self.replay)?;
            guest.run(random.below(STRETCH))?;
        }
        let take = Take::choose(random, running.from.is_none());
        let taken = snapshot(store, &self.vm, guest, &self.config, take)?;
        lived.did(&take);
        let id = taken.published.snapshot.id;
        self.replay.advance(position(store, self.backend, id)?)?;
        compare_image(store, id, &self.replay)?;
        self.snapshots.push(id);
        if random.is_one_in(RELAYOUT) {
            self.relayout(store, random, &mut lived)?;
        }
        // It runs on, with all that it inherited and all that is brought from here on.
        guest.run(random.below(STRETCH))?;
        compare_guest(guest, &mut self.replay.clone())?;
        running.beside.end()?;
        if let Some(from) = running.from
            && random.is_one_in(REFRESH)
        {
            lived.recorded(record(store, from, guest)?);
        }
        // What it runs from is in use.
        drop(running.guest);
        if random.is_one_in(DELETE) && self.snapshots.len() > 2 {
            let oldest = self.snapshots.remove(0);
            store.drop_cached(oldest)?;
            store.delete(&store.plan_delete(oldest)?)?;
        }
        Ok(lived)
    }

    /// The guest of the latest snapshot, or the first one.
    fn bring(
        &mut self,
        store: &Store,
        random: &mut Random,
        lived: &mut Lived,
    ) -> Result<Running, Failure> {
        let Some(&latest) = self.snapshots.last() else {
            lived.did("started");
            return Ok(Running {
                guest: tinyvm::start(self.backend, &self.config)?,
                beside: Beside::default(),
                from: None,
            });
        };
        if random.is_one_in(REHEARSE) {
            for _ in 0..=random.below(2) {
                self.rehearse(store, latest, random, lived)?;
            }
        }
        let clock = ClockPolicy::Frozen;
        let purpose = if random.is_one_in(CLONE) {
            let generation = GenerationId::random()?;
            self.replay.write(GENERATION_ADDRESS.0, &generation.0);
            lived.did("cloned");
            Purpose::Clone { clock, generation }
        } else {
            Purpose::Resume(clock)
        };
        self.restore(store, latest, purpose, random, lived)
    }

    /// Runs from the snapshot for a while, for its working set alone.
    fn rehearse(
        &self,
        store: &Store,
        id: SnapshotId,
        random: &mut Random,
        lived: &mut Lived,
    ) -> Result<(), Failure> {
        let purpose = Purpose::Resume(ClockPolicy::Frozen);
        let mut running = self.restore(store, id, purpose, random, lived)?;
        let guest = running.guest.as_mut();
        guest.run(random.below(STRETCH))?;
        // Before the comparison, which touches every page.
        lived.recorded(record(store, id, guest)?);
        compare_guest(guest, &mut self.replay.clone())?;
        running.beside.end()
    }

    fn restore(
        &self,
        store: &Store,
        id: SnapshotId,
        purpose: Purpose,
        random: &mut Random,
        lived: &mut Lived,
    ) -> Result<Running, Failure> {
        let bring = Bring::choose(random);
        let brought = restore(store, self.backend, id, bring, purpose)?;
        lived.did(&brought.bring);
        if brought.working_set.is_some() {
            lived.did("working set replayed");
        }
        let beside = Beside::begin(&*brought.guest, brought.working_set, random)?;
        Ok(Running {
            guest: brought.guest,
            beside,
            from: Some(id),
        })
    }

    /// Lays one of the snapshots out anew: maybe one that the running guest gets its pages from.
    fn relayout(
        &self,
        store: &Store,
        random: &mut Random,
        lived: &mut Lived,
    ) -> Result<(), Failure> {
        let Some(&id) = random.pick(&self.snapshots) else {
            return Ok(());
        };
        let layouts = [DataLayout::Sparse, DataLayout::Packed, DataLayout::Frames];
        let layout = random.pick(&layouts).copied();
        let layout = layout.unwrap_or(DataLayout::Sparse);
        store.relayout(id, &RelayoutOptions::of(layout))?;
        lived.did("laid out anew");
        Ok(())
    }
}
