//! A snapshot that is being written.

use snapshot_format::{Operation, PAGE_BYTES, SectionPayload, SnapshotId, SnapshotRef};
use snapshot_memory::{
    GuestMemorySource, LiveMemory, LivePlan, MemoryPlan, MemoryStats, Pages, SealedSink, SinkError,
    SnapshotSink, Stability, StagedLive, StagedSink, StagedSnapshot, snapshot_room,
};

use crate::directory::Location;
use crate::error::StoreError;
use crate::identity;
use crate::image::StoredImage;
use crate::lease::Lease;
use crate::quota;
use crate::sink::own_lock::OwnLock;
use crate::sink::{NewSnapshot, StoreSealed};
use crate::store::Store;
use crate::vm;

/// Takes snapshots into a store, each as the same [`NewSnapshot`] says.
#[derive(Clone, Debug)]
pub struct StoreSink {
    store: Store,
    new: NewSnapshot,
}

/// A snapshot that is being written. Dropping it discards it.
#[derive(Debug)]
pub struct StoreStage {
    // Fields are dropped in this order: the stage goes while its lock is held.
    pub(super) staged: StagedSnapshot,
    pub(super) store: Store,
    pub(super) new: NewSnapshot,
    /// Keeps the parent and all that it needs.
    pub(super) parent_lease: Option<Lease>,
    /// The memory of the parent, once a diff needs it.
    pub(super) parent_image: Option<StoredImage>,
    pub(super) lock: OwnLock,
}

impl Store {
    /// Prepares taking snapshots as `new` says.
    pub fn sink(&self, new: NewSnapshot) -> StoreSink {
        StoreSink {
            store: self.clone(),
            new,
        }
    }

    /// Leases the parent, which must be in use and have the digest that is named.
    fn lease_parent(&self, parent: SnapshotRef) -> Result<Lease, StoreError> {
        let wrong = |problem: String| StoreError::WrongParent {
            expected: parent,
            problem,
        };
        self.allow(Operation::Extend)?;
        let leased = self.leased(parent.id, |placed| {
            placed.allow(Operation::Extend)?;
            if placed.digest == parent.digest {
                Ok(())
            } else {
                let found = placed.digest;
                let expected = parent.digest;
                Err(wrong(format!(
                    "its manifest has digest {found}, and {expected} is named"
                )))
            }
        });
        match leased {
            Ok(((), lease)) => Ok(lease),
            Err(StoreError::NotFound { what }) => Err(wrong(format!("{what} does not exist"))),
            Err(error) => Err(error),
        }
    }
}

impl StoreSink {
    /// Stages an empty snapshot.
    ///
    /// Whatever can be refused is refused here, before memory is written: the parent, the name,
    /// the spelling of the machine. All of it is looked at again when the snapshot is sealed.
    pub fn stage(&self) -> Result<StoreStage, StoreError> {
        let (store, new) = (&self.store, &self.new);
        store.begin_write()?;
        new.metadata.check()?;
        vm::check_spelling(store, &new.vm)?;
        vm::check_file(store, &new.vm)?;
        if let Some(template) = &new.name_template {
            template.check(&new.vm, &new.branch)?;
        }
        if let Some(name) = &new.metadata.name {
            vm::check_name_is_free(store, &new.vm, name, None)?;
        }
        let parent_lease = match new.parent {
            Some(parent) => Some(store.lease_parent(parent)?),
            None => None,
        };
        let id = identity::new_id();
        let lock = OwnLock::take(store, id)?;
        let mut staged = StagedSnapshot::begin(
            store.shared_backend(),
            Location::Live.directory(),
            id,
            new.parent,
            new.arch,
        )?;
        staged.set_options(new.capture.clone());
        Ok(StoreStage {
            staged,
            store: store.clone(),
            new: new.clone(),
            parent_lease,
            parent_image: None,
            lock,
        })
    }
}

impl StoreStage {
    /// The identity that it will be published under.
    #[must_use]
    pub fn id(&self) -> SnapshotId {
        self.staged.id()
    }

    /// Prepares for memory before the machine is stopped: refuses what the store has no room for,
    /// and opens the parent of a diff.
    pub fn prepare(&mut self, plan: MemoryPlan<'_>) -> Result<(), StoreError> {
        quota::check(&self.store, &self.new.vm, snapshot_room(plan.bytes))?;
        if let Some(base) = plan.base {
            self.open_parent(base)?;
        }
        let parent = self.parent_image.as_ref().map(StoredImage::image);
        Ok(self.staged.prepare(plan, parent)?)
    }

    /// Adds a section of machine state.
    pub fn section(&mut self, section: SectionPayload) {
        self.staged.section(section);
    }

    /// Writes guest memory, once. `stability` says whether anyone may write it meanwhile.
    pub fn memory(
        &mut self,
        source: &dyn GuestMemorySource,
        pages: Pages<'_>,
        stability: Stability,
    ) -> Result<MemoryStats, StoreError> {
        let most = pages.dirty().map_or_else(
            || source.layout().len_bytes(),
            |dirty| dirty.count().saturating_mul(PAGE_BYTES),
        );
        quota::check(&self.store, &self.new.vm, snapshot_room(most))?;
        if let Pages::Since { base, .. } = pages {
            self.open_parent(base)?;
        }
        let parent = self.parent_image.as_ref().map(StoredImage::image);
        Ok(self.staged.memory(source, pages, stability, parent)?)
    }

    /// Begins to write guest memory, once, while the machine runs.
    pub fn live(&mut self, plan: LivePlan<'_>) -> Result<StagedLive<'_>, StoreError> {
        // Which pages a diff will have nobody knows yet: what was written is looked at in the end.
        let least = plan.base.map_or_else(|| plan.layout.len_bytes(), |_| 0);
        quota::check(&self.store, &self.new.vm, snapshot_room(least))?;
        if let Some(base) = plan.base {
            self.open_parent(base)?;
        }
        let parent = self.parent_image.as_ref().map(StoredImage::image);
        Ok(self.staged.live(plan, parent)?)
    }

    /// Opens the memory of the parent, which must be `base`. Does nothing where it is open.
    fn open_parent(&mut self, base: SnapshotRef) -> Result<(), StoreError> {
        if self.new.parent != Some(base) {
            return Err(StoreError::WrongParent {
                expected: base,
                problem: "the pages are relative to it, and the snapshot is not its child"
                    .to_owned(),
            });
        }
        if self.parent_image.is_none() {
            self.parent_image = Some(self.store.image_to(Operation::Extend, base.id)?);
        }
        Ok(())
    }
}

impl SnapshotSink for StoreSink {
    fn begin(&mut self) -> Result<Box<dyn StagedSink>, SinkError> {
        Ok(Box::new(self.stage()?))
    }
}

impl StagedSink for StoreStage {
    fn id(&self) -> SnapshotId {
        self.staged.id()
    }

    fn prepare(&mut self, plan: MemoryPlan<'_>) -> Result<(), SinkError> {
        Ok(Self::prepare(self, plan)?)
    }

    fn section(&mut self, section: SectionPayload) -> Result<(), SinkError> {
        self.staged.section(section);
        Ok(())
    }

    fn memory(
        &mut self,
        source: &dyn GuestMemorySource,
        pages: Pages<'_>,
        stability: Stability,
    ) -> Result<MemoryStats, SinkError> {
        Ok(Self::memory(self, source, pages, stability)?)
    }

    fn live(&mut self, plan: LivePlan<'_>) -> Result<Box<dyn LiveMemory + '_>, SinkError> {
        let live = Self::live(self, plan)?;
        Ok(Box::new(live))
    }

    fn seal(self: Box<Self>) -> Result<Box<dyn SealedSink>, SinkError> {
        let sealed: StoreSealed = Self::seal(*self)?;
        Ok(Box::new(sealed))
    }
}
