//! A writer without a guest: images come in, snapshots are laid out anew, deleted and brought back.

use std::num::NonZeroUsize;

use snapshot_format::{DataLayout, SnapshotId};
use snapshot_memory::{MappedMemory, MappingOptions, Pages, RelayoutOptions, Stability};
use snapshot_store::{NewSnapshot, Store};
use tinyvm::{Position, Replay};

use super::task::{SEED, Said, Task, vm_of_imports};
use crate::random::Random;
use crate::stored_guest::{Failure, config};
use crate::way::Way;

/// Writes that an image is ahead of the one before, at most.
const AHEAD: u64 = 512;

pub(super) fn run(task: &Task, store: &Store) -> Result<(), Failure> {
    let mut random = Random::new(task.seed);
    let mut replay = Replay::new(&config(SEED))?;
    let mut writes = 0;
    loop {
        let snapshots: Vec<SnapshotId> = store
            .list(None)?
            .snapshots
            .iter()
            .map(|one| one.id)
            .collect();
        let some = random.pick(&snapshots).copied();
        match (random.below(3), some) {
            (1, Some(id)) => {
                let layouts = [DataLayout::Sparse, DataLayout::Packed, DataLayout::Frames];
                let layout = random.pick(&layouts).copied().unwrap_or(DataLayout::Sparse);
                store.relayout(id, &RelayoutOptions::of(layout))?;
                Said::Done.say()?;
            }
            (2, Some(id)) => {
                store.delete(&store.plan_delete(id)?)?;
                store.undelete(id)?;
                Said::Done.say()?;
            }
            _ => {
                writes += random.below(AHEAD);
                replay.advance(Position::after(writes))?;
                let way = random.pick(&Way::ALL).copied().unwrap_or_default();
                let id = import(store, &replay, writes, way)?;
                Said::Published(id).say()?;
            }
        }
    }
}

/// Takes an image as a snapshot, whose configuration says how far it is.
fn import(store: &Store, replay: &Replay, writes: u64, way: Way) -> Result<SnapshotId, Failure> {
    let memory = MappedMemory::new(config(SEED).layout()?, MappingOptions::default())?;
    memory.write(0, replay.bytes())?;
    let new = NewSnapshot::of(vm_of_imports()?)
        .config(writes.to_le_bytes().to_vec())
        .capture(way.options(NonZeroUsize::MIN));
    let mut stage = store.sink(new).stage()?;
    stage.memory(&memory, Pages::Full, Stability::Paused)?;
    Ok(stage.seal()?.publish()?.snapshot.id)
}
