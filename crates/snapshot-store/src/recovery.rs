//! Removing what writers that died left behind.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use snapshot_format::SnapshotId;
use snapshot_memory::backend::{Backend, EntryKind, LockMode, RelPath};

use crate::cache;
use crate::directory::{self, Location};
use crate::error::StoreError;
use crate::placing;
use crate::store::Store;

/// How deep directories are nested in a staging directory.
pub(crate) const MAX_DEPTH: usize = 4;

/// Removes staging directories and lock files that nobody holds.
///
/// Nothing depends on it: what fails is left for the next time.
pub(crate) fn remove_leftovers(store: &Store) {
    let span = tracing::debug_span!("remove_leftovers");
    let _inside = span.enter();
    if let Err(error) = sweep(store) {
        tracing::warn!(error = &error as &dyn std::error::Error, "leftovers remain");
    }
}

fn sweep(store: &Store) -> Result<(), StoreError> {
    let snapshots = Location::Live.directory();
    let entries = |path: &RelPath| {
        let listed = store.backend().list(path);
        listed.map_err(|error| StoreError::io("list", path, error))
    };
    // Locks first: a snapshot whose lock is seen here has its directory seen below, if it has one.
    let locks = entries(&directory::lock_directory())?;
    let mut known: BTreeSet<SnapshotId> = BTreeSet::new();
    for entry in entries(&snapshots)? {
        if let Some(id) = directory::staged_id(&entry.name) {
            known.insert(id);
            if let Err(error) = discard(store, id) {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, snapshot = %id, "an unfinished snapshot remains");
            }
        } else if let Some(id) = directory::placing_id(&entry.name) {
            if let Err(error) = placing::discard_leftovers(store, id) {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, snapshot = %id, "an unfinished placement remains");
            }
        } else if let Ok(id) = entry.name.parse() {
            known.insert(id);
        }
    }
    let live: BTreeSet<SnapshotId> = store.ids_at(Location::Live)?.into_iter().collect();
    known.extend(store.ids_at(Location::Trash)?);
    for id in locks
        .iter()
        .filter_map(|entry| directory::place_lock_id(&entry.name))
    {
        placing::discard_leftovers(store, id)?;
    }
    cache::remove_leftovers(store, &locks, &|id| live.contains(&id))?;
    let orphans = locks.iter().filter_map(|entry| entry.name.parse().ok());
    for id in orphans.filter(|id| !known.contains(id)) {
        discard(store, id)?;
    }
    Ok(())
}

/// Removes the staging directory and the lock file of `id`, unless its writer is alive or it has
/// been published.
fn discard(store: &Store, id: SnapshotId) -> Result<(), StoreError> {
    let backend = store.backend();
    let path = directory::snapshot_lock(id);
    let _lock = match backend.lock(&path, LockMode::Exclusive, Duration::ZERO) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
        Err(error) => return Err(StoreError::io("lock", &path, error)),
    };
    remove_tree(backend, &directory::stage(id), MAX_DEPTH)?;
    // With the lock in hand: whoever waits for it sees that its file is gone, and starts again.
    for location in Location::SEARCH {
        if store.exists_at(location, id)? {
            return Ok(());
        }
    }
    match backend.remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StoreError::io("remove", &path, error))
        }
        _ => Ok(()),
    }
}

/// Removes a directory and what is in it.
pub(crate) fn remove_tree(
    backend: &dyn Backend,
    path: &RelPath,
    depth: usize,
) -> Result<(), StoreError> {
    let entries = match backend.list(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(StoreError::io("list", path, error)),
    };
    for entry in entries {
        let inner = directory::below(path, &entry.name);
        if entry.kind == EntryKind::Directory && depth > 0 {
            remove_tree(backend, &inner, depth - 1)?;
        } else {
            backend
                .remove_file(&inner)
                .map_err(|error| StoreError::io("remove", &inner, error))?;
        }
    }
    backend
        .remove_dir(path)
        .map_err(|error| StoreError::io("remove", path, error))
}
