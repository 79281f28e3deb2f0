//! A snapshot that is complete, and the moment in which it becomes visible.

use std::time::{SystemTime, UNIX_EPOCH};

use snapshot_format::{FileKind, Manifest, Placement, SnapshotRef};
use snapshot_memory::{
    MemoryStats, PublishError, Published, SealedSink, SealedSnapshot, SinkError, SnapshotFacts,
};

use crate::directory;
use crate::error::StoreError;
use crate::lease::Lease;
use crate::lock::Held;
use crate::placed;
use crate::quota;
use crate::sink::StoreStage;
use crate::sink::own_lock::OwnLock;
use crate::store::Store;
use crate::vm;

/// A snapshot that is complete and durable, and not yet visible. Dropping it discards it.
///
/// It holds the lock of its machine, as it has been given a sequence number.
#[derive(Debug)]
pub struct StoreSealed {
    // Fields are dropped in this order: the stage goes while its lock is held.
    pub(super) sealed: SealedSnapshot,
    pub(super) store: Store,
    pub(super) vm_lock: Held,
    pub(super) parent_lease: Option<Lease>,
    pub(super) lock: OwnLock,
}

impl StoreStage {
    /// Gives the snapshot its sequence number, writes what names all the rest, and makes
    /// everything durable.
    pub fn seal(self) -> Result<StoreSealed, StoreError> {
        let Self {
            mut staged,
            store,
            mut new,
            parent_lease,
            parent_image,
            lock,
        } = self;
        // The lease stays; open files are of no more use.
        drop(parent_image);
        // Memory takes long, and needs no lock of the machine.
        staged.make_durable()?;
        let vm_lock = store.lock_vm(&new.vm)?;
        vm::check_spelling(&store, &new.vm)?;
        let seq = vm::next_seq(&store, &new.vm)?;
        if let Some(template) = &new.name_template {
            new.metadata.name = Some(template.fill(&new.vm, &new.branch, seq)?);
        }
        quota::check(&store, &new.vm, quota::of_stage(&store, staged.id())?)?;
        if let Some(name) = &new.metadata.name {
            vm::check_name_is_free(&store, &new.vm, name, None)?;
        }
        let metadata = new.metadata.encode(staged.id())?;
        staged.side_file(directory::METADATA_FILE, &metadata)?;
        let sealed = staged.seal(SnapshotFacts {
            vm: new.vm,
            seq,
            branch: new.branch,
            created_unix_ms: now_unix_ms(),
            vm_config: new.config,
            fingerprint: new.fingerprint,
        })?;
        store.give_stage(sealed.reference().id)?;
        Ok(StoreSealed {
            sealed,
            store,
            vm_lock,
            parent_lease,
            lock,
        })
    }
}

impl StoreSealed {
    /// What a child will name it by.
    #[must_use]
    pub fn reference(&self) -> SnapshotRef {
        self.sealed.reference()
    }

    /// Its manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        self.sealed.manifest()
    }

    /// What writing memory did.
    #[must_use]
    pub fn stats(&self) -> MemoryStats {
        self.sealed.stats()
    }

    /// Makes the snapshot visible, by one rename that replaces nothing.
    pub fn publish(self) -> Result<Published, StoreError> {
        Ok(self.commit()?)
    }

    fn commit(self) -> Result<Published, PublishError> {
        let Self {
            sealed,
            store,
            vm_lock,
            parent_lease,
            mut lock,
        } = self;
        let id = sealed.reference().id;
        let vm = sealed.manifest().vm.clone();
        let refused = |error: StoreError| PublishError::NotCommitted {
            id,
            source: Box::new(error.into()),
        };
        let published = {
            let _commit = store
                .lock_exclusively(&directory::commit_lock())
                .map_err(refused)?;
            check_dependencies(&store, sealed.placement()).map_err(refused)?;
            sealed.publish()
        };
        if !matches!(published, Err(PublishError::NotCommitted { .. })) {
            lock.keep_file();
            vm::refresh(&store, &vm);
        }
        drop((parent_lease, vm_lock));
        published
    }
}

impl SealedSink for StoreSealed {
    fn publish(self: Box<Self>) -> Result<Published, PublishError> {
        self.commit()
    }
}

/// Looks every data file of another snapshot up again. The commit lock is held.
pub(crate) fn check_dependencies(store: &Store, placement: &Placement) -> Result<(), StoreError> {
    let dependencies = placement.dependencies.iter();
    for data in dependencies.filter(|data| data.snapshot != placement.id) {
        for kind in [FileKind::MemoryMap, FileKind::MemoryData] {
            placed::open_file(store.backend(), data.snapshot, kind, data.index)?;
        }
    }
    Ok(())
}

/// For people: nothing is decided by it.
fn now_unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

impl From<StoreError> for SinkError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Sink { source } => *source,
            error => Self::Catalog(Box::new(error)),
        }
    }
}

impl From<SinkError> for StoreError {
    fn from(error: SinkError) -> Self {
        match error {
            SinkError::Catalog(source) => match source.downcast() {
                Ok(error) => *error,
                Err(source) => Self::Sink {
                    source: Box::new(SinkError::Catalog(source)),
                },
            },
            source => Self::Sink {
                source: Box::new(source),
            },
        }
    }
}

impl From<PublishError> for StoreError {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::NotCommitted { source, .. } => (*source).into(),
            PublishError::DurabilityUncertain { snapshot, source } => Self::DurabilityUncertain {
                what: format!("snapshot {}", snapshot.id),
                source: source.source,
            },
            other => Self::Publish {
                source: Box::new(other),
            },
        }
    }
}
