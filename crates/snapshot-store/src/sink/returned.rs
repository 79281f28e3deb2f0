//! A snapshot that is gone from the store, back under the id that it had.

use snapshot_format::{FileKind, Manifest, Operation, SnapshotId, SnapshotRef};
use snapshot_memory::backend::LockMode;
use snapshot_memory::{
    CaptureControl, MemoryStats, PageSource, Published, StagedReturn, snapshot_room,
};

use crate::directory::{self, Location};
use crate::error::StoreError;
use crate::feature;
use crate::garbage;
use crate::lock;
use crate::metadata::Metadata;
use crate::quota;
use crate::sink::StoreSealed;
use crate::sink::own_lock::OwnLock;
use crate::store::Store;
use crate::vm;

/// What is left of a snapshot elsewhere: its small files byte for byte, and all of its memory.
#[derive(Clone)]
pub struct ReturningSnapshot<'a> {
    /// `manifest.vms`.
    pub manifest: &'a [u8],
    /// `state.vms`, where its manifest names one.
    pub state: Option<&'a [u8]>,
    /// The first memory map and the memory, where its manifest names one.
    pub memory: Option<(&'a [u8], &'a dyn PageSource)>,
    /// Name, labels, tags.
    pub metadata: Metadata,
    /// How writing memory is watched, slowed down and broken off.
    pub control: CaptureControl,
}

/// A snapshot that came back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Returned {
    /// It, as children name it.
    pub snapshot: SnapshotRef,
    /// What writing memory did; `None` without memory.
    pub stats: Option<MemoryStats>,
}

impl Store {
    /// Publishes a snapshot that is neither in use nor in the trash under the id that it had, with
    /// the same manifest: children find it, and its parent need not be there.
    ///
    /// It depends on no other data file. Its own pages come back as its manifest names them, checked
    /// against it; those that it took from others come back in a merged file beside them.
    pub fn bring_back(&self, from: &ReturningSnapshot<'_>) -> Result<Returned, StoreError> {
        self.allow(Operation::Rewrite)?;
        self.begin_write()?;
        from.metadata.check()?;
        let manifest = parsed(from.manifest)?;
        let id = manifest.id;
        let span = tracing::info_span!("bring_back", snapshot = %id);
        let _inside = span.enter();
        let lock = self.lock_gone(id)?;
        self.check_place(&manifest, &from.metadata)?;
        let needed = manifest.layout.len_bytes();
        quota::check(self, &manifest.vm, snapshot_room(needed))?;
        let folder = Location::Live.directory();
        let mut staged = StagedReturn::begin(self.shared_backend(), folder, from.manifest)?;
        if let Some(state) = from.state {
            staged.state(state)?;
        }
        let stats = match from.memory {
            Some((map, source)) => Some(staged.memory(map, source, &from.control)?),
            None => None,
        };
        staged.side_file(directory::METADATA_FILE, &from.metadata.encode(id)?)?;
        let sealed = staged.seal()?;
        // Memory takes long, and needs no lock of the machine.
        let vm_lock = self.lock_vm(&manifest.vm)?;
        self.check_place(&manifest, &from.metadata)?;
        quota::check(self, &manifest.vm, quota::of_stage(self, id)?)?;
        self.give_stage(id)?;
        {
            let _commit = self.lock_exclusively(&directory::commit_lock())?;
            garbage::forget_grace(self, id)?;
        }
        let sealed = StoreSealed {
            sealed,
            store: self.clone(),
            vm_lock,
            parent_lease: None,
            lock,
        };
        let Published { snapshot } = sealed.publish()?;
        Ok(Returned { snapshot, stats })
    }

    /// Locks a snapshot of which nothing is there. With the lock nobody else brings it back.
    ///
    /// No collection is under way meanwhile: it removes that lock together with what is left.
    fn lock_gone(&self, id: SnapshotId) -> Result<OwnLock, StoreError> {
        let path = directory::garbage_lock();
        let _no_collection =
            lock::take(self.backend(), &path, LockMode::Exclusive, self.lock_wait())?;
        // The trash first: what is brought back from there meanwhile is seen in use.
        let there = if self.is_directory(&directory::gone(id))? {
            "on its way out, which gc ends,"
        } else if self.exists_at(Location::Trash, id)? {
            "in the trash, from which undelete brings it back,"
        } else if self.exists_at(Location::Live, id)? {
            "in use, of which there can be a copy under a new id,"
        } else {
            return OwnLock::take(self, id);
        };
        Err(StoreError::Exists {
            what: format!("snapshot {id} {there}"),
        })
    }

    /// Fails if another snapshot has its number, its name, or its machine another spelling.
    fn check_place(&self, manifest: &Manifest, metadata: &Metadata) -> Result<(), StoreError> {
        let vm = &manifest.vm;
        vm::check_spelling(self, vm)?;
        vm::check_file(self, vm)?;
        let there = self.machine(vm)?;
        if let Some(other) = there.all().find(|other| other.seq == manifest.seq) {
            return Err(StoreError::Exists {
                what: format!("number {} of VM {vm} ({})", other.seq, other.id),
            });
        }
        match &metadata.name {
            Some(name) => vm::check_name_is_free(self, vm, name, None),
            None => Ok(()),
        }
    }
}

fn parsed(bytes: &[u8]) -> Result<Manifest, StoreError> {
    let name = FileKind::Manifest.file_name(0);
    let path = directory::below(&Location::Live.directory(), &name);
    let parsed = Manifest::parse(bytes);
    let manifest = parsed.map_err(|error| StoreError::decode(&path, error))?;
    let path = directory::below(&Location::Live.snapshot(manifest.id), &name);
    feature::allow(&path, manifest.features, Operation::Rewrite)?;
    Ok(manifest)
}

impl std::fmt::Debug for ReturningSnapshot<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = f.debug_struct("ReturningSnapshot");
        debug.field("manifest", &self.manifest.len());
        debug.field("metadata", &self.metadata);
        debug.finish_non_exhaustive()
    }
}
