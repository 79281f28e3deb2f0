//! Dirty pages of a live snapshot: rounds while the machine runs, and a last one in its pause.

use std::num::NonZeroUsize;
use std::sync::Arc;

use snapshot_format::{MemoryLayout, SnapshotRef};

use super::{Consumer, ConsumerId, DirtyTracker, Shared};
use crate::dirty::{DirtyBitmap, DirtySource};
use crate::error::DirtyError;

/// The rounds of one live snapshot of a consumer.
///
/// Each round names the pages that were written since the one before; [`close`](Self::close), in
/// the pause, names the rest and is the instant that the snapshot is of. The bits of the consumer
/// itself stay where they are until [`LiveEpoch::commit`]. Other consumers may take epochs
/// meanwhile: no round loses a page by it.
///
/// While there is one, the sources stand ready for a peek. Dropping it lets them rest.
#[derive(Debug)]
pub struct LiveRounds {
    shared: Arc<Shared>,
    consumer: ConsumerId,
    /// Gathers what every harvest of anybody names.
    own: ConsumerId,
    layout: Arc<MemoryLayout>,
    base: Option<SnapshotRef>,
    /// Empty bitmaps, got before the pause.
    spare: Option<Spare>,
    /// What the last close gathered in: given back while the machine runs.
    spent: Option<DirtyBitmap>,
    failures: Vec<DirtyError>,
}

#[derive(Debug)]
struct Spare {
    gathered: DirtyBitmap,
    own: DirtyBitmap,
    active: DirtyBitmap,
}

/// The instant of a live snapshot: what was written since the last round, and the token that drops
/// the bits of the consumer once a durable snapshot holds them.
///
/// An owned token, as [`DirtyEpoch`](crate::DirtyEpoch) is: dropped or leaked, all bits stay.
#[derive(Debug)]
#[must_use = "the pages stay pending until the epoch is committed"]
pub struct LiveEpoch {
    shared: Arc<Shared>,
    consumer: ConsumerId,
    serial: u64,
    base: Option<SnapshotRef>,
    last: DirtyBitmap,
    failures: Vec<DirtyError>,
}

impl DirtyTracker {
    /// Begins the rounds of a live snapshot of `consumer`. Scans of the last pages may use so many
    /// threads, the caller's included.
    pub fn live(
        &self,
        consumer: ConsumerId,
        threads: NonZeroUsize,
    ) -> Result<LiveRounds, DirtyError> {
        let mut state = self.shared.lock();
        let base = state.consumers.get(&consumer);
        let base = base.ok_or(DirtyError::UnknownConsumer)?.base;
        for source in &mut state.sources {
            if let Err(error) = source.make_ready(threads) {
                // It is slower then, and no less right.
                tracing::debug!(source = source.name(), %error, "not ready for a peek");
            }
        }
        let own = ConsumerId(state.serial());
        let layout = state.layout.clone();
        let rounds = Consumer {
            base: None,
            rounds: Vec::new(),
            active: DirtyBitmap::of_layout(layout.clone()),
        };
        state.consumers.insert(own, rounds);
        drop(state);
        let mut live = LiveRounds {
            shared: self.shared.clone(),
            consumer,
            own,
            layout,
            base,
            spare: None,
            spent: None,
            failures: Vec::new(),
        };
        live.refill();
        Ok(live)
    }

    /// Tells the sources that a live snapshot is about to [close](LiveRounds::close) its rounds,
    /// within a millisecond or two. To be called once the machine stands still, before its state
    /// is read.
    pub fn rouse(&self) {
        let mut state = self.shared.lock();
        for source in &mut state.sources {
            source.rouse();
        }
    }
}

impl LiveRounds {
    /// The snapshot that the pages of the consumer are relative to.
    #[must_use]
    pub fn base(&self) -> Option<SnapshotRef> {
        self.base
    }

    /// The memory that the pages are numbered in.
    #[must_use]
    pub fn layout(&self) -> &Arc<MemoryLayout> {
        &self.layout
    }

    /// What failed of the sources so far; all pages were marked each time.
    pub fn take_failures(&mut self) -> Vec<DirtyError> {
        std::mem::take(&mut self.failures)
    }

    /// The pages of the first round: those written since the base, or all without one. What is
    /// written from now on is in the rounds that follow.
    pub fn first(&mut self) -> Result<DirtyBitmap, DirtyError> {
        // Its own bits are part of the consumer's.
        drop(self.round()?);
        let state = self.shared.lock();
        let consumer = state.consumers.get(&self.consumer);
        let consumer = consumer.ok_or(DirtyError::UnknownConsumer)?;
        let pages = consumer.pages(&state.layout);
        pages.or_from(&consumer.active);
        Ok(pages)
    }

    /// The pages written since the last round. The machine may run; each page is to be read after
    /// this has returned.
    ///
    /// A source that fails is answered by naming all pages. Memory that was plugged or unplugged
    /// since the beginning is an error: the snapshot must begin again.
    pub fn round(&mut self) -> Result<DirtyBitmap, DirtyError> {
        let fresh = DirtyBitmap::of_layout(self.layout.clone());
        let mut state = self.shared.lock();
        self.failures.extend(state.harvest_all());
        if *state.layout != *self.layout {
            return Err(DirtyError::Replugged);
        }
        let own = state.consumers.get_mut(&self.own);
        let own = own.ok_or(DirtyError::UnknownConsumer)?;
        Ok(std::mem::replace(&mut own.active, fresh))
    }

    /// Gives back pages of a round that were not read: they are part of the next one.
    pub fn give_back(&mut self, pages: &DirtyBitmap) {
        let state = self.shared.lock();
        if let Some(own) = state.consumers.get(&self.own) {
            own.active.or_from(pages);
        }
    }

    /// Gets ready to close: call it just before the machine is stopped.
    pub fn refill(&mut self) {
        self.spent = None;
        let pages = self.layout.page_count();
        self.spare.get_or_insert_with(|| Spare {
            gathered: DirtyBitmap::new(pages),
            own: DirtyBitmap::of_layout(self.layout.clone()),
            active: DirtyBitmap::new(pages),
        });
    }

    /// Names the pages written since the last round, and closes the consumer's bits: the snapshot
    /// is of this instant. To be called while nobody writes.
    ///
    /// Nothing is cleared at a source that can do without: the next epoch names these pages again.
    pub fn close(&mut self) -> Result<LiveEpoch, DirtyError> {
        self.refill();
        let spare = self.spare.take();
        let Spare {
            gathered,
            own,
            active,
        } = spare.ok_or(DirtyError::Replugged)?;
        let mut state = self.shared.lock();
        if *state.layout != *self.layout {
            return Err(DirtyError::Replugged);
        }
        let ask = |source: &mut dyn DirtySource| source.peek(&gathered);
        let failures = state.gather(&gathered, ask);
        self.spent = Some(gathered);
        let serial = state.serial();
        let bits = state.consumers.get_mut(&self.own);
        let bits = bits.ok_or(DirtyError::UnknownConsumer)?;
        let last = std::mem::replace(&mut bits.active, own);
        let consumer = state.consumers.get_mut(&self.consumer);
        let consumer = consumer.ok_or(DirtyError::UnknownConsumer)?;
        consumer.close_with(serial, active);
        Ok(LiveEpoch {
            shared: self.shared.clone(),
            consumer: self.consumer,
            serial,
            base: self.base,
            last,
            failures,
        })
    }

    /// Takes back an instant that no snapshot will be of, because its pages were too many: the
    /// machine runs on, and they are part of the next round.
    pub fn reopen(&mut self, epoch: LiveEpoch) {
        self.give_back(&epoch.last);
        self.failures.extend(epoch.failures);
    }
}

impl Drop for LiveRounds {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.consumers.remove(&self.own);
        for source in &mut state.sources {
            source.rest();
        }
    }
}

impl LiveEpoch {
    /// The pages written since the last round.
    #[must_use]
    pub fn pages(&self) -> &DirtyBitmap {
        &self.last
    }

    /// Sources that failed, so that all pages had to be marked.
    #[must_use]
    pub fn failures(&self) -> &[DirtyError] {
        &self.failures
    }

    /// Says that `published` is durable and holds memory as it was at this instant: it becomes the
    /// base of the consumer, and what was written before it is dropped.
    ///
    /// Refused, with all bits kept, where another epoch has moved the base in the meantime.
    pub fn commit(self, published: SnapshotRef) -> Result<(), DirtyError> {
        self.shared
            .commit(self.consumer, self.serial, self.base, published)
    }
}

#[cfg(test)]
mod tests;
