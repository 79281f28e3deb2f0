//! Removing what newer placements of a snapshot made superfluous.

use std::collections::BTreeSet;
use std::time::Duration;

use snapshot_format::{FileEntry, FileKind, Operation, Placement, SnapshotId};
use snapshot_memory::backend::{LockMode, RelPath};
use snapshot_memory::{SealedPlacement, StagedPlacement};

use super::marks::Marks;
use super::report::Trimmed;
use crate::directory::{self, Location};
use crate::error::StoreError;
use crate::file;
use crate::lock;
use crate::placed::{self, Placed};
use crate::placing::PlaceLock;
use crate::store::Store;

/// What a snapshot has that nobody needs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Superseded {
    /// Placements that count no more.
    generations: Vec<u32>,
    /// Data files and maps.
    data: BTreeSet<(FileKind, u32)>,
}

impl Superseded {
    /// What `marks` and the directory say of a snapshot.
    pub(super) fn find(
        store: &Store,
        location: Location,
        id: SnapshotId,
        marks: &Marks,
    ) -> Result<Self, StoreError> {
        let backend = store.backend();
        let generations = placed::generations(backend, location, id)?;
        let added = placed::added_files(backend, location, id)?;
        if generations.len() <= 1 && added.is_empty() {
            return Ok(Self::default());
        }
        store.allow_gc(location, id)?;
        let mut placed = Placed::read(backend, location, id)?;
        if !placed.passed_over.is_empty() {
            return Err(placed.passed_over.swap_remove(0));
        }
        let counts = placed.placement.generation;
        for generation in generations.iter().filter(|n| **n != counts) {
            let (manifest, digest) = (&placed.manifest, placed.digest);
            placed::read_generation(backend, location, manifest, digest, *generation)?;
        }
        let placement = &placed.placement;
        let own = placement.dependencies.iter();
        let own: BTreeSet<u32> = own
            .filter(|data| data.snapshot == id)
            .map(|data| data.index)
            .collect();
        let is_memory = |kind| matches!(kind, FileKind::MemoryMap | FileKind::MemoryData);
        let named = placement.files.iter().map(|file| (file.kind, file.index));
        let data = named.chain(added).filter(|(kind, index)| {
            is_memory(*kind) && *index != 0 && !own.contains(index) && !marks.is_named(id, *index)
        });
        Ok(Self {
            generations: generations.into_iter().filter(|n| *n != counts).collect(),
            data: data.collect(),
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.generations.is_empty() && self.data.is_empty()
    }

    /// The names of the files: placements first, as they are removed first.
    pub(super) fn file_names(&self) -> (Vec<String>, Vec<String>) {
        let generations = self.generations.iter();
        let placements = generations.map(|n| FileKind::Placement.file_name(*n));
        let data = self.data.iter().map(|(kind, index)| kind.file_name(*index));
        (placements.collect(), data.collect())
    }

    /// Bytes of blocks that the files occupy which are there.
    pub(super) fn allocated_bytes(&self, store: &Store, folder: &RelPath) -> u64 {
        let (placements, data) = self.file_names();
        let names = placements.iter().chain(&data);
        let found = names.filter_map(|name| {
            let path = directory::below(folder, name);
            store.backend().metadata(&path).ok()
        });
        found.map(|found| found.allocated_bytes).sum()
    }
}

/// Removes the superseded files of a snapshot, unless somebody uses it or makes a placement of it.
pub(super) fn trim(
    store: &Store,
    location: Location,
    id: SnapshotId,
    marks: &mut Marks,
) -> Result<Option<Trimmed>, StoreError> {
    if Superseded::find(store, location, id, marks)?.is_empty() {
        return Ok(None);
    }
    let place_lock = match PlaceLock::at_once(store, id) {
        Err(StoreError::Busy { .. }) => return Ok(None),
        taken => taken?,
    };
    place_lock.remove_leftovers()?;
    let placed = Placed::read(store.backend(), location, id)?;
    placed.allow(Operation::Rewrite)?;
    let before = placed.placement;
    let superseded = Superseded::find(store, location, id, marks)?;
    let sealed = stage_without(store, location, &place_lock, &before, &superseded)?;
    let _commit = store.lock_exclusively(&directory::commit_lock())?;
    // Whoever has a lease may read by any placement.
    let path = directory::snapshot_lock(id);
    let _alone = match lock::take(store.backend(), &path, LockMode::Exclusive, Duration::ZERO) {
        Err(StoreError::Busy { .. }) => return Ok(None),
        taken => taken?,
    };
    marks.refresh(store)?;
    let is_same = store.exists_at(location, id)?
        && Placed::read(store.backend(), location, id)?.placement == before
        && Superseded::find(store, location, id, marks)? == superseded;
    if !is_same || superseded.is_empty() {
        return Ok(None);
    }
    let folder = location.snapshot(id);
    let mut superseded = superseded;
    if let Some(sealed) = sealed {
        sealed.publish(&folder, &[])?;
        superseded.generations.push(before.generation);
    }
    remove(store, &folder, &superseded, id).map(Some)
}

/// A placement that does not name the files that are to go; `None` where the one that counts names
/// none of them.
fn stage_without(
    store: &Store,
    location: Location,
    place_lock: &PlaceLock,
    before: &Placement,
    superseded: &Superseded,
) -> Result<Option<SealedPlacement>, StoreError> {
    let goes = |entry: &FileEntry| superseded.data.contains(&(entry.kind, entry.index));
    if !before.files.iter().any(goes) {
        return Ok(None);
    }
    let mut after = before.clone();
    after.generation = place_lock.next_generation_at(location, before)?;
    after.files.retain(|entry| !goes(entry));
    let folder = Location::Live.directory();
    let staged = StagedPlacement::begin(store.shared_backend(), folder, before.id)?;
    Ok(Some(staged.seal(after)?))
}

/// Removes placements, then the data that only they named; each durably before the next.
fn remove(
    store: &Store,
    folder: &RelPath,
    superseded: &Superseded,
    id: SnapshotId,
) -> Result<Trimmed, StoreError> {
    let allocated_bytes = superseded.allocated_bytes(store, folder);
    let (placements, data) = superseded.file_names();
    for names in [&placements, &data] {
        for name in names {
            file::remove_if_there(store.backend(), &directory::below(folder, name))?;
        }
        if !names.is_empty() {
            let synced = file::sync_dir(store.backend(), folder);
            synced.map_err(|error| StoreError::io("sync", folder, error))?;
        }
    }
    Ok(Trimmed {
        id,
        files: placements.into_iter().chain(data).collect(),
        allocated_bytes,
    })
}
