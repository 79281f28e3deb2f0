//! The right to make a new placement of a snapshot, and what those who died while they had it left.

use std::collections::BTreeSet;
use std::time::Duration;

use snapshot_format::{FileEntry, FileKind, Operation, Placement, SnapshotId};
use snapshot_memory::SealedPlacement;
use snapshot_memory::backend::LockMode;

use crate::directory::{self, Location};
use crate::error::StoreError;
use crate::file;
use crate::lease::Lease;
use crate::lock::{self, Held};
use crate::placed::{self, Placed};
use crate::record;
use crate::recovery;
use crate::sink;
use crate::store::Store;

/// Holds `locks/place.<id>` alone. The file goes with the lock.
#[derive(Debug)]
pub(crate) struct PlaceLock {
    store: Store,
    id: SnapshotId,
    _held: Held,
}

impl Store {
    /// Begins a new placement of a snapshot in use: takes the right to make it, removes what one
    /// who died left, leases the snapshot and reads what is needed of it.
    pub(crate) fn begin_placement<T>(
        &self,
        id: SnapshotId,
        read: impl Fn(&Placed) -> Result<T, StoreError>,
    ) -> Result<(PlaceLock, Lease, T), StoreError> {
        self.allow(Operation::Rewrite)?;
        self.begin_write()?;
        self.live(id)?.allow(Operation::Rewrite)?;
        let place_lock = PlaceLock::take(self, id)?;
        place_lock.remove_leftovers()?;
        let (before, lease) = self.leased(id, |placed| {
            placed.allow(Operation::Rewrite)?;
            read(placed)
        })?;
        Ok((place_lock, lease, before))
    }
}

impl PlaceLock {
    /// Takes the lock, waiting as long as the store does.
    pub(crate) fn take(store: &Store, id: SnapshotId) -> Result<Self, StoreError> {
        Self::within(store, id, store.lock_wait())
    }

    /// Takes the lock at once, or fails as busy.
    pub(crate) fn at_once(store: &Store, id: SnapshotId) -> Result<Self, StoreError> {
        Self::within(store, id, Duration::ZERO)
    }

    fn within(store: &Store, id: SnapshotId, wait: Duration) -> Result<Self, StoreError> {
        let path = directory::place_lock(id);
        let held = lock::take(store.backend(), &path, LockMode::Exclusive, wait)?;
        Ok(Self {
            store: store.clone(),
            id,
            _held: held,
        })
    }

    /// The generation of the placement that follows `before`: above every one that has a file.
    pub(crate) fn next_generation(&self, before: &Placement) -> Result<u32, StoreError> {
        self.next_generation_at(Location::Live, before)
    }

    /// The same for the snapshot at `location`: what is deleted and needed gets placements, too.
    pub(crate) fn next_generation_at(
        &self,
        location: Location,
        before: &Placement,
    ) -> Result<u32, StoreError> {
        let there = placed::generations(self.store.backend(), location, self.id)?;
        let highest = there.into_iter().max().unwrap_or(before.generation);
        next(highest, "placements of a snapshot")
    }

    /// Makes a placement count that was made from `before`, which must still count. A working set
    /// that it does not name any more is removed.
    pub(crate) fn publish(
        &self,
        sealed: SealedPlacement,
        before: &Placement,
    ) -> Result<(), StoreError> {
        let _commit = self.store.lock_exclusively(&directory::commit_lock())?;
        if self.store.live(self.id)?.placement != *before {
            return Err(StoreError::Overtaken {
                what: format!("the placement of snapshot {}", self.id),
            });
        }
        sink::check_dependencies(&self.store, sealed.placement())?;
        let (after, mut superseded) = (sealed.placement(), before.files.clone());
        superseded.retain(|file| file.kind == FileKind::WorkingSet && !after.files.contains(file));
        let superseded: Vec<String> = superseded.iter().map(FileEntry::file_name).collect();
        self.store.give_placing(self.id)?;
        sealed.publish(&Location::Live.snapshot(self.id), &superseded)?;
        Ok(())
    }

    /// Removes what a writer that died left: its stage, memory files that got their names and that
    /// no placement names, and working sets that the placement which counts does not name.
    ///
    /// The stage is the mark of the latter, so it goes last.
    pub(crate) fn remove_leftovers(&self) -> Result<(), StoreError> {
        let backend = self.store.backend();
        for location in Location::SEARCH {
            if self.store.exists_at(location, self.id)? {
                self.remove_unnamed(location)?;
            }
        }
        recovery::remove_tree(backend, &directory::placing(self.id), recovery::MAX_DEPTH)
    }

    fn remove_unnamed(&self, location: Location) -> Result<(), StoreError> {
        let (backend, id) = (self.store.backend(), self.id);
        let found = placed::added_files(backend, location, id)?;
        if found.is_empty() {
            return Ok(());
        }
        // Without a manifest nobody knows what the placements name: all of them stay.
        let Ok((manifest, digest)) = record::read_manifest(backend, location, id) else {
            return Ok(());
        };
        let mut named: BTreeSet<(FileKind, u32)> = BTreeSet::new();
        let generations = placed::generations(backend, location, id)?;
        let counts = generations.first().copied();
        for generation in generations {
            let read = placed::read_generation(backend, location, &manifest, digest, generation);
            // One that cannot be read may name any file: all of them stay.
            let Ok(placement) = read else { return Ok(()) };
            // A working set is not needed: of those, one placement keeps one.
            let kept = |kind| kind != FileKind::WorkingSet || counts == Some(generation);
            let files = placement.files.iter().filter(|file| kept(file.kind));
            named.extend(files.map(|file| (file.kind, file.index)));
        }
        let folder = location.snapshot(id);
        let sync = || {
            let synced = file::sync_dir(backend, &folder);
            synced.map_err(|error| StoreError::io("sync", &folder, error))
        };
        let unnamed: Vec<_> = found.iter().filter(|file| !named.contains(file)).collect();
        if unnamed
            .iter()
            .any(|(kind, _)| *kind == FileKind::WorkingSet)
        {
            // The placement before the one that counts may name it, and must not come back.
            sync()?;
        }
        let mut removed = false;
        for &(kind, index) in unnamed {
            let path = directory::below(&folder, &kind.file_name(index));
            file::remove_if_there(backend, &path)?;
            removed = true;
        }
        if removed { sync() } else { Ok(()) }
    }
}

impl Drop for PlaceLock {
    fn drop(&mut self) {
        let path = directory::place_lock(self.id);
        // While the lock is held: whoever waits for it sees that its file is gone.
        if let Err(error) = file::remove_if_there(self.store.backend(), &path) {
            tracing::debug!(%error, "a lock file remains");
        }
    }
}

/// Removes what is left of a new placement of `id`, unless its writer is alive.
pub(crate) fn discard_leftovers(store: &Store, id: SnapshotId) -> Result<(), StoreError> {
    match PlaceLock::at_once(store, id) {
        Ok(lock) => lock.remove_leftovers(),
        Err(StoreError::Busy { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The number that follows.
pub(crate) fn next(number: u32, what: &'static str) -> Result<u32, StoreError> {
    let limit = usize::try_from(u32::MAX).unwrap_or(usize::MAX);
    number
        .checked_add(1)
        .ok_or(StoreError::TooMany { what, limit })
}
