//! The owner of all dirty bits.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use snapshot_format::sabotage::Sabotage;
use snapshot_format::{MemoryLayout, PAGE_BYTES, SnapshotRef};

use super::{BlindSpots, DirtyBitmap, DirtyEpoch, DirtyGuarantee, DirtySource};
use crate::error::DirtyError;

/// Rounds that a consumer keeps apart. Joining two keeps every bit: an epoch that is committed
/// after its round was joined with a later one leaves too many bits, never too few.
const MAX_ROUNDS: usize = 4;

/// Gathers written pages from several sources for several consumers, and keeps each bit until a
/// durable snapshot holds the page.
///
/// For each consumer the tracker knows a `base`, the snapshot that bits are relative to, and the
/// rounds of bits since then. [`epoch`](Self::epoch) closes a round; only
/// [`DirtyEpoch::commit`] drops bits, those that the epoch names.
///
/// Memory may be plugged and unplugged meanwhile: see [`change_layout`](Self::change_layout).
pub struct DirtyTracker {
    shared: Arc<Shared>,
}

/// Who takes dirty pages: the snapshots of a branch, a migration.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ConsumerId(u64);

/// What a source says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct SourceFacts {
    /// Its name.
    pub name: &'static str,
    /// What it promises.
    pub guarantee: DirtyGuarantee,
    /// Bytes that one bit of it stands for.
    pub granule_bytes: u64,
}

#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
}

pub(super) struct State {
    layout: Arc<MemoryLayout>,
    sources: Vec<Box<dyn DirtySource>>,
    consumers: BTreeMap<ConsumerId, Consumer>,
    next: u64,
}

/// The bits of one consumer.
#[derive(Debug)]
struct Consumer {
    base: Option<SnapshotRef>,
    /// Closed by an epoch each, oldest first.
    rounds: Vec<Round>,
    /// Harvested since the last round was closed.
    active: DirtyBitmap,
}

#[derive(Debug)]
struct Round {
    serial: u64,
    bits: DirtyBitmap,
}

impl DirtyTracker {
    /// Starts `sources`, which all watch the memory of `layout`.
    pub fn new(
        layout: MemoryLayout,
        mut sources: Vec<Box<dyn DirtySource>>,
    ) -> Result<Self, DirtyError> {
        for source in &sources {
            let name = source.name();
            if *source.layout() != layout {
                return Err(DirtyError::LayoutDiffers { name });
            }
            let granule_bytes = source.granule_bytes();
            if !granule_bytes.is_power_of_two() || granule_bytes < PAGE_BYTES {
                return Err(DirtyError::BadGranule {
                    name,
                    granule_bytes,
                });
            }
        }
        for index in 0..sources.len() {
            let started = sources
                .get_mut(index)
                .map_or(Ok(()), |source| source.start());
            if let Err(error) = started {
                stop(sources.iter_mut().take(index));
                return Err(error);
            }
        }
        let state = State {
            layout: Arc::new(layout),
            sources,
            consumers: BTreeMap::new(),
            next: 0,
        };
        Ok(Self {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
            }),
        })
    }

    /// The memory that is watched.
    #[must_use]
    pub fn layout(&self) -> Arc<MemoryLayout> {
        self.shared.lock().layout.clone()
    }

    /// Whose writes no source sees: what of it concerns the machine must be stopped before a
    /// snapshot, marked with [`VmmWrites`](super::VmmWrites), or covered by another source.
    #[must_use]
    pub fn blind_spots(&self) -> BlindSpots {
        let state = self.shared.lock();
        let spots = state.sources.iter().map(|source| source.blind_spots());
        spots.fold(BlindSpots::ALL, |left, spots| left & spots)
    }

    /// The names of the sources, as they were given.
    #[must_use]
    pub fn source_names(&self) -> Vec<&'static str> {
        let state = self.shared.lock();
        state.sources.iter().map(|source| source.name()).collect()
    }

    /// What the sources are, as they were given.
    #[must_use]
    pub fn sources(&self) -> Vec<SourceFacts> {
        let state = self.shared.lock();
        let facts = state.sources.iter().map(|source| SourceFacts {
            name: source.name(),
            guarantee: source.guarantee(),
            granule_bytes: source.granule_bytes(),
        });
        facts.collect()
    }

    /// Adds a consumer. `base` is the snapshot that guest memory equals now, as just after a
    /// restore; with `None` the first epoch is of all pages.
    pub fn subscribe(&self, base: Option<SnapshotRef>) -> ConsumerId {
        let mut state = self.shared.lock();
        let id = ConsumerId(state.serial());
        let consumer = Consumer {
            base,
            rounds: Vec::new(),
            active: DirtyBitmap::new(state.layout.page_count()),
        };
        state.consumers.insert(id, consumer);
        id
    }

    /// Forgets a consumer and its bits. Epochs of it can no longer be committed.
    pub fn unsubscribe(&self, consumer: ConsumerId) {
        self.shared.lock().consumers.remove(&consumer);
    }

    /// The snapshot that the bits of a consumer are relative to.
    pub fn base(&self, consumer: ConsumerId) -> Result<Option<SnapshotRef>, DirtyError> {
        let state = self.shared.lock();
        let consumer = state.consumers.get(&consumer);
        Ok(consumer.ok_or(DirtyError::UnknownConsumer)?.base)
    }

    /// How many pages the next epoch of `consumer` has at least: those that were harvested since
    /// its base, or all without a base. The sources are not asked.
    pub fn pending(&self, consumer: ConsumerId) -> Result<u64, DirtyError> {
        let state = self.shared.lock();
        let consumer = state.consumers.get(&consumer);
        let consumer = consumer.ok_or(DirtyError::UnknownConsumer)?;
        let pages = consumer.pages(&state.layout);
        pages.or_from(&consumer.active);
        Ok(pages.count())
    }

    /// Moves bits from the sources to every consumer, and closes nothing: a round of pre-copy.
    ///
    /// A source that fails is answered by marking all pages; its error is handed out.
    pub fn harvest(&self) -> Vec<DirtyError> {
        self.shared.lock().harvest_all()
    }

    /// Closes a round of `consumer`: every page written since its base, up to now.
    ///
    /// Call it while nobody writes; what is written later belongs to the next epoch. A source that
    /// fails is answered by marking all pages; see [`DirtyEpoch::failures`].
    pub fn epoch(&self, consumer: ConsumerId) -> Result<DirtyEpoch, DirtyError> {
        let mut state = self.shared.lock();
        if !state.consumers.contains_key(&consumer) {
            return Err(DirtyError::UnknownConsumer);
        }
        let round = DirtyBitmap::new(state.layout.page_count());
        let failures = state.harvest(&round);
        let serial = state.serial();
        let layout = state.layout.clone();
        let bits = state.consumers.get_mut(&consumer);
        let bits = bits.ok_or(DirtyError::UnknownConsumer)?;
        bits.close(serial);
        let pages = bits.pages(&layout);
        if Sabotage::EarlyEpochCommit.is_on() {
            bits.rounds.clear();
        }
        let base = bits.base;
        drop(state);
        Ok(DirtyEpoch {
            shared: self.shared.clone(),
            consumer,
            serial,
            base,
            layout,
            pages,
            failures,
        })
    }
}

impl Drop for DirtyTracker {
    fn drop(&mut self) {
        stop(self.shared.lock().sources.iter_mut());
    }
}

impl fmt::Debug for DirtyTracker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirtyTracker")
            .field("shared", &self.shared)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.sources.iter().map(|source| source.name()).collect();
        f.debug_struct("State")
            .field("sources", &names)
            .field("consumers", &self.consumers)
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// Moves the base of `consumer` from `base` to `published`, and drops what an epoch closed.
    pub(super) fn commit(
        &self,
        consumer: ConsumerId,
        serial: u64,
        base: Option<SnapshotRef>,
        published: SnapshotRef,
    ) -> Result<(), DirtyError> {
        let mut state = self.lock();
        let consumer = state.consumers.get_mut(&consumer);
        let consumer = consumer.ok_or(DirtyError::UnknownConsumer)?;
        if consumer.base != base {
            return Err(DirtyError::WrongBase {
                epoch: base,
                current: consumer.base,
            });
        }
        consumer.rounds.retain(|round| round.serial > serial);
        consumer.base = Some(published);
        Ok(())
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // After a panic of a source all pages are marked, by `MarkAll`.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn serial(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Moves bits from the sources to every consumer.
    fn harvest_all(&mut self) -> Vec<DirtyError> {
        self.harvest(&DirtyBitmap::new(self.layout.page_count()))
    }

    /// The same by way of `round`, an empty bitmap of the layout.
    fn harvest(&mut self, round: &DirtyBitmap) -> Vec<DirtyError> {
        self.gather(round, |source| source.harvest(round))
    }

    /// Asks every source, by `ask`, for what it names in `round`, and hands that to all consumers.
    fn gather(
        &mut self,
        round: &DirtyBitmap,
        mut ask: impl FnMut(&mut dyn DirtySource) -> Result<(), DirtyError>,
    ) -> Vec<DirtyError> {
        let guard = MarkAll {
            consumers: &mut self.consumers,
            armed: true,
        };
        let sources = self.sources.iter_mut();
        let failures: Vec<_> = sources
            .filter_map(|source| {
                if *source.layout() != *self.layout {
                    // It could not follow a change of the memory.
                    let name = source.name();
                    return Some(DirtyError::LayoutDiffers { name });
                }
                ask(&mut **source).err()
            })
            .collect();
        if !failures.is_empty() {
            round.set_all();
        }
        guard.disarm(round);
        failures
    }
}

/// Marks all pages of all consumers when a source panics in the middle of a harvest.
struct MarkAll<'a> {
    consumers: &'a mut BTreeMap<ConsumerId, Consumer>,
    armed: bool,
}

impl MarkAll<'_> {
    fn disarm(mut self, round: &DirtyBitmap) {
        self.armed = false;
        for consumer in self.consumers.values() {
            consumer.active.or_from(round);
        }
    }
}

impl Drop for MarkAll<'_> {
    fn drop(&mut self) {
        if self.armed {
            for consumer in self.consumers.values() {
                consumer.active.set_all();
            }
        }
    }
}

impl Consumer {
    fn close(&mut self, serial: u64) {
        self.close_with(serial, DirtyBitmap::new(self.active.page_count()));
    }

    /// The same, with an empty bitmap for what comes.
    fn close_with(&mut self, serial: u64, empty: DirtyBitmap) {
        // Nobody else has the bitmap: the tracker is locked.
        let bits = std::mem::replace(&mut self.active, empty);
        self.rounds.push(Round { serial, bits });
        if self.rounds.len() > MAX_ROUNDS {
            let oldest = self.rounds.remove(0);
            if let Some(next) = self.rounds.first() {
                next.bits.or_from(&oldest.bits);
            }
        }
    }

    /// All bits since the base.
    fn pages(&self, layout: &Arc<MemoryLayout>) -> DirtyBitmap {
        let pages = DirtyBitmap::of_layout(layout.clone());
        if self.base.is_none() {
            pages.set_all();
        }
        for round in &self.rounds {
            pages.or_from(&round.bits);
        }
        pages
    }
}

mod change;
mod live;

pub use live::{LiveEpoch, LiveRounds};

fn stop<'a>(sources: impl Iterator<Item = &'a mut Box<dyn DirtySource>>) {
    for source in sources {
        if let Err(error) = source.stop() {
            tracing::warn!(source = source.name(), %error, "dirty source does not stop");
        }
    }
}

#[cfg(test)]
mod tests;
