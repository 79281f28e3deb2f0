//! Materialised images: the whole memory of a snapshot in one raw file, for mapping.

use std::io;
use std::time::Duration;

use snapshot_format::{Manifest, Operation, SnapshotId};
use snapshot_memory::CaptureControl;
use snapshot_memory::backend::{Entry, LockMode, ReadFile, RelPath};

use crate::directory;
use crate::error::StoreError;
use crate::file;
use crate::lock::{self, Held};
use crate::store::Store;

mod build;
mod job;

pub use build::WarmReport;
pub use job::{WarmEnd, WarmJob};

/// A materialised image of a snapshot, open.
///
/// It was whole, checked and durable when it got its name. Whoever maps it trusts the file system
/// from then on: no digest is compared any more.
#[derive(Debug)]
pub struct CachedImage {
    file: Box<dyn ReadFile>,
    path: RelPath,
    len_bytes: u64,
}

/// Holds `locks/cache.<id>` alone. The file goes with the lock.
#[derive(Debug)]
struct CacheLock<'a> {
    store: &'a Store,
    id: SnapshotId,
    _held: Held,
}

impl CachedImage {
    /// The raw image, mode 0400.
    pub fn file(&self) -> &dyn ReadFile {
        &*self.file
    }

    /// Its name below the root of the store.
    pub fn path(&self) -> &RelPath {
        &self.path
    }

    /// Its length, which is that of the memory.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// The file alone.
    pub fn into_file(self) -> Box<dyn ReadFile> {
        self.file
    }
}

impl Store {
    /// The materialised image of a snapshot in use, to bring a machine back from; `None` if there is
    /// none.
    pub fn cached_image(&self, id: SnapshotId) -> Result<Option<CachedImage>, StoreError> {
        self.allow(Operation::Restore)?;
        let placed = self.live(id)?;
        placed.allow(Operation::Restore)?;
        self.find_cached(&placed.manifest)
    }

    /// The materialised image of a snapshot, to look at it.
    pub(crate) fn find_cached(
        &self,
        manifest: &Manifest,
    ) -> Result<Option<CachedImage>, StoreError> {
        let (id, len_bytes) = (manifest.id, manifest.layout.len_bytes());
        let path = directory::cached(id);
        let file = match self.backend().open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(|error| StoreError::io("open", &path, error))?,
        };
        let found = file.len();
        let found = found.map_err(|error| StoreError::io("measure", &path, error))?;
        if found != len_bytes {
            let problem = format!("it has {found} bytes, and the snapshot {len_bytes} of memory");
            return Err(StoreError::CachedImage { path, problem });
        }
        Ok(Some(CachedImage {
            file,
            path,
            len_bytes,
        }))
    }

    /// Prepares building the materialised image of a snapshot, for another thread to run.
    pub fn warm_job(&self, id: SnapshotId, control: CaptureControl) -> WarmJob {
        WarmJob::new(self.clone(), id, control)
    }

    /// Removes the materialised image of a snapshot; whether there was one. Who has it mapped
    /// keeps it.
    pub fn drop_cached(&self, id: SnapshotId) -> Result<bool, StoreError> {
        self.begin_write()?;
        let _lock = CacheLock::take(self, id, self.lock_wait())?;
        let path = directory::cached(id);
        match self.backend().remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(StoreError::io("remove", &path, error)),
        }
    }

    /// Removes the materialised image of a snapshot that was just deleted. Where that fails, whoever
    /// opens the store next does it.
    pub(crate) fn forget_cached(&self, id: SnapshotId) {
        let path = directory::cached(id);
        let removed = CacheLock::take(self, id, Duration::ZERO)
            .and_then(|_lock| file::remove_if_there(self.backend(), &path));
        if let Err(error) = removed {
            let error = &error as &dyn std::error::Error;
            tracing::debug!(error, "the image of a deleted snapshot remains");
        }
    }
}

impl<'a> CacheLock<'a> {
    fn take(store: &'a Store, id: SnapshotId, wait: Duration) -> Result<Self, StoreError> {
        let path = directory::cache_lock(id);
        let held = lock::take(store.backend(), &path, LockMode::Exclusive, wait)?;
        Ok(Self {
            store,
            id,
            _held: held,
        })
    }

    /// The lock, unless somebody has it.
    fn at_once(store: &'a Store, id: SnapshotId) -> Result<Option<Self>, StoreError> {
        match Self::take(store, id, Duration::ZERO) {
            Ok(lock) => Ok(Some(lock)),
            Err(StoreError::Busy { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Drop for CacheLock<'_> {
    fn drop(&mut self) {
        let path = directory::cache_lock(self.id);
        // While the lock is held: whoever waits for it sees that its file is gone.
        if let Err(error) = file::remove_if_there(self.store.backend(), &path) {
            tracing::debug!(%error, "a lock file remains");
        }
    }
}

/// Removes what a builder that died left, and images of snapshots that are not in use any more.
/// `locks` are the names of lock files.
pub(crate) fn remove_leftovers(
    store: &Store,
    locks: &[Entry],
    live: &dyn Fn(SnapshotId) -> bool,
) -> Result<(), StoreError> {
    let folder = directory::cache_directory();
    let listed = store.backend().list(&folder);
    let listed = match listed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        listed => listed.map_err(|error| StoreError::io("list", &folder, error))?,
    };
    for entry in listed {
        let Some((id, is_whole)) = directory::cached_id(&entry.name) else {
            continue;
        };
        if is_whole && live(id) {
            continue;
        }
        if let Some(_lock) = CacheLock::at_once(store, id)? {
            let path = directory::below(&folder, &entry.name);
            let removed = file::remove_if_there(store.backend(), &path);
            if let Err(error) = removed {
                // What somebody else put there stands in nobody's way.
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "a leftover of the cache remains");
            }
        }
    }
    let left = locks.iter();
    for id in left.filter_map(|entry| directory::cache_lock_id(&entry.name)) {
        drop(CacheLock::at_once(store, id)?);
    }
    Ok(())
}
