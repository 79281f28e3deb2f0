//! Taking a snapshot of a running guest, as a VMM does: with epochs of dirty pages.

use std::num::NonZeroUsize;

use snapshot_format::{
    Description, SectionKind, SectionPayload, SnapshotName, SnapshotRef, VmName,
};
use snapshot_memory::{
    CaptureOptions, ConsumerId, DirtyTracker, LiveMemory, LivePlan, MemoryStats, Stability,
    VmmWrites, WriteMarker,
};
use snapshot_store::{NewSnapshot, Store, StoreError};

use super::guest::Guest;
use super::model::{Expected, chain};

/// A guest, its tracker, and what its next snapshot is to be called.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) guest: Guest,
    tracker: DirtyTracker,
    consumer: ConsumerId,
    marker: WriteMarker,
    new: NewSnapshot,
    parent_name: Option<String>,
}

/// What a snapshot is called, and what it comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Title {
    /// The virtual machine.
    pub(super) vm: &'static str,
    /// The name of the snapshot.
    pub(super) name: &'static str,
    /// `VM/NAME` of the parent.
    pub(super) parent: Option<&'static str>,
}

impl Attempt {
    /// A guest that was just restored from `parent`, or has just started.
    ///
    /// Its memory will be captured as `options` say.
    pub(super) fn new(
        title: Title,
        parent: Option<(SnapshotRef, &Expected)>,
        options: CaptureOptions,
    ) -> Result<Self, String> {
        let text = |error: &dyn std::error::Error| chain(error);
        let image = parent.map(|(_, parent)| parent.image.as_slice());
        let guest = Guest::new(image).map_err(|e| text(&e))?;
        let layout = snapshot_memory::GuestMemorySource::layout(&guest).clone();
        let (writes, marker) = VmmWrites::new(layout.clone());
        let tracker = DirtyTracker::new(layout, vec![Box::new(writes)]).map_err(|e| text(&e))?;
        let consumer = tracker.subscribe(parent.map(|(reference, _)| reference));
        let vm = VmName::new(title.vm).map_err(|e| text(&e))?;
        let name = SnapshotName::new(title.name).map_err(|e| text(&e))?;
        let mut new = NewSnapshot::of(vm).name(name).capture(options);
        new.config = b"cpus=1".to_vec();
        new.metadata.description = Description::new(title.name).map_err(|e| text(&e))?;
        Ok(Self {
            guest,
            tracker,
            consumer,
            marker,
            new,
            parent_name: title.parent.map(str::to_owned),
        })
    }

    /// Lets the guest run.
    pub(super) fn run(&self, seed: u8) {
        for pages in self.guest.scribble(seed) {
            self.marker.mark(pages);
        }
    }

    /// Lets the guest write to all of its memory.
    pub(super) fn fill(&self, seed: u8) {
        for pages in self.guest.fill(seed) {
            self.marker.mark(pages);
        }
    }

    /// Takes a snapshot, and commits the epoch if it was published.
    pub(super) fn take(&self, store: &Store) -> Result<MemoryStats, StoreError> {
        let epoch = self.tracker.epoch(self.consumer).map_err(unexpected)?;
        let new = self.new.clone().parent(epoch.base());
        let mut stage = store.sink(new).stage()?;
        stage.section(SectionPayload::raw(SectionKind::CALLER, 0, 1, vec![1; 100]));
        let stability = match epoch.base() {
            None => Stability::Paused,
            Some(_) => Stability::Running,
        };
        let stats = stage.memory(&self.guest, epoch.selection(), stability)?;
        let published = stage.seal()?.publish()?;
        epoch.commit(published.snapshot).map_err(unexpected)?;
        Ok(stats)
    }

    /// The same live: what the guest writes meanwhile is written again.
    pub(super) fn take_live(&self, store: &Store, seed: u8) -> Result<MemoryStats, StoreError> {
        let rounds = self.tracker.live(self.consumer, NonZeroUsize::MIN);
        let mut rounds = rounds.map_err(unexpected)?;
        let new = self.new.clone().parent(rounds.base());
        let mut stage = store.sink(new).stage()?;
        let mut live: Box<dyn LiveMemory> = Box::new(stage.live(LivePlan {
            layout: snapshot_memory::GuestMemorySource::layout(&self.guest),
            base: rounds.base(),
            aside_bytes: 1 << 20,
            bytes_per_second: None,
        })?);
        let first = rounds.first().map_err(unexpected)?;
        live.round(&self.guest, &first, Stability::Running)?;
        self.run(seed);
        let second = rounds.round().map_err(unexpected)?;
        live.round(&self.guest, &second, Stability::Running)?;
        self.run(seed);
        let epoch = rounds.close().map_err(unexpected)?;
        live.set_aside(&self.guest, epoch.pages())?;
        let stats = live.finish()?;
        stage.section(SectionPayload::raw(SectionKind::CALLER, 0, 1, vec![1; 100]));
        let published = stage.seal()?.publish()?;
        epoch.commit(published.snapshot).map_err(unexpected)?;
        Ok(stats)
    }

    /// What the snapshot must be, once it is there.
    pub(super) fn expected(&self) -> Expected {
        Expected {
            image: self.guest.image(),
            is_live: true,
            description: self.new.metadata.description.as_str().to_owned(),
            parent: self.parent_name.clone(),
            generation: 1,
            working_set: None,
            is_warm: false,
        }
    }
}

/// An error of the tracker, which has no sources that fail here.
fn unexpected(error: snapshot_memory::DirtyError) -> StoreError {
    snapshot_memory::SinkError::Catalog(Box::new(error)).into()
}
