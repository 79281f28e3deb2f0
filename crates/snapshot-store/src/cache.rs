//! Materialised images: the whole memory of a snapshot in one raw file, for mapping.

use std::io;
use std::ops::ControlFlow;
use std::time::Duration;

use serde::Serialize;
use snapshot_format::SnapshotId;
use snapshot_memory::backend::{Backend, LockMode, ReadFile, RelPath, WriteFile};
use snapshot_memory::{CaptureControl, MemoryImage, Pace, SinkError};

use crate::directory;
use crate::error::StoreError;
use crate::file;
use crate::lock::{self, Held};
use crate::store::Store;

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

/// What building a materialised image did.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct WarmReport {
    /// Which snapshot.
    pub id: SnapshotId,
    /// Whether it was built; it was there already otherwise.
    pub built: bool,
    /// The file, below the root of the store.
    pub file: String,
    /// Bytes of guest memory.
    pub len_bytes: u64,
    /// Bytes of blocks that the file occupies: zero pages take none where holes are.
    pub allocated_bytes: u64,
}

/// A materialised image that is to be built, by whoever has a thread for it.
#[derive(Debug)]
#[must_use = "nothing is built before it is run"]
pub struct WarmJob {
    store: Store,
    id: SnapshotId,
    control: CaptureControl,
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

impl WarmJob {
    /// Builds the image, unless it is there, as [`Store::warm`] does.
    pub fn run(self) -> Result<WarmReport, StoreError> {
        self.store.warm(self.id, &self.control)
    }
}

impl Store {
    /// The materialised image of a snapshot in use; `None` if there is none.
    pub fn cached_image(&self, id: SnapshotId) -> Result<Option<CachedImage>, StoreError> {
        let len_bytes = self.manifest(id)?.layout.len_bytes();
        let path = directory::cached(id);
        let file = match self.backend().open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(|error| StoreError::io("open", &path, error))?,
        };
        let found = file.len();
        let found = found.map_err(|error| StoreError::io("measure", &path, error))?;
        if found != len_bytes {
            let problem = format!("it has {found} bytes, and the snapshot {len_bytes} of memory");
            return Err(StoreError::damaged(&path, problem));
        }
        Ok(Some(CachedImage {
            file,
            path,
            len_bytes,
        }))
    }

    /// Prepares building the materialised image of a snapshot, for another thread to run.
    pub fn warm_job(&self, id: SnapshotId, control: CaptureControl) -> WarmJob {
        WarmJob {
            store: self.clone(),
            id,
            control,
        }
    }

    /// Builds the materialised image of a snapshot in use, unless it is there.
    ///
    /// Every page is checked on its way. The file gets its name when it is whole and durable.
    /// `control` is told how far the work is, breaks it off, and slows it down.
    pub fn warm(&self, id: SnapshotId, control: &CaptureControl) -> Result<WarmReport, StoreError> {
        let span = tracing::info_span!("warm", snapshot = %id);
        let _inside = span.enter();
        self.begin_write()?;
        let stored = self.image(id)?;
        let _lock = CacheLock::take(self, id, self.lock_wait())?;
        let built = self.cached_image(id)?.is_none();
        if built {
            self.build(id, stored.image(), control)?;
        }
        let path = directory::cached(id);
        let found = self.backend().metadata(&path);
        let found = found.map_err(|error| StoreError::io("measure", &path, error))?;
        Ok(WarmReport {
            id,
            built,
            file: path.as_str().to_owned(),
            len_bytes: found.len_bytes,
            allocated_bytes: found.allocated_bytes,
        })
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

    /// The lock is held.
    fn build(
        &self,
        id: SnapshotId,
        image: &MemoryImage,
        control: &CaptureControl,
    ) -> Result<(), StoreError> {
        let fresh = directory::caching(id);
        file::remove_if_there(self.backend(), &fresh)?;
        let written = fill(self.backend(), &fresh, image, control);
        if let Err(error) = written {
            // A leftover is removed by the next build, or when the store is opened.
            drop(self.backend().remove_file(&fresh));
            return Err(error);
        }
        let path = directory::cached(id);
        let named = self.backend().rename_noreplace(&fresh, &path);
        named.map_err(|error| StoreError::io("publish as", &path, error))?;
        let folder = directory::cache_directory();
        let synced = file::sync_dir(self.backend(), &folder);
        synced.map_err(|source| StoreError::DurabilityUncertain {
            what: format!("the materialised image {path}"),
            source,
        })
    }
}

fn fill(
    backend: &dyn Backend,
    path: &RelPath,
    image: &MemoryImage,
    control: &CaptureControl,
) -> Result<(), StoreError> {
    let failed = |action| move |error| StoreError::io(action, path, error);
    let mut file = backend.create(path).map_err(failed("create"))?;
    let total_bytes = image.layout().len_bytes();
    let mut pace = Pace::start(control.cancel.clone(), control.bytes_per_second);
    let mut done = 0;
    let whole = image.write_raw(file.as_mut(), path.as_str(), &mut |at| {
        let stopped: Result<(), SinkError> = pace.spend(at.saturating_sub(done));
        done = at;
        control.report(at, total_bytes);
        match stopped {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    })?;
    if !whole {
        return Err(StoreError::Interrupted);
    }
    file.make_read_only()
        .map_err(failed("take write permission from"))?;
    sync(file.as_mut()).map_err(failed("sync"))
}

fn sync(file: &mut dyn WriteFile) -> io::Result<()> {
    use snapshot_format::sabotage::Sabotage;
    match file.sync() {
        Err(_) if Sabotage::IgnoredFsyncError.is_on() => Ok(()),
        synced => synced,
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
pub(crate) fn remove_leftovers(
    store: &Store,
    live: &dyn Fn(SnapshotId) -> bool,
) -> Result<(), StoreError> {
    let folder = directory::cache_directory();
    let listed = store.backend().list(&folder);
    let listed = match listed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        listed => listed.map_err(|error| StoreError::io("list", &folder, error))?,
    };
    for entry in listed {
        let Some((id, is_whole)) = directory::cached_id(&entry.name) else {
            continue;
        };
        if is_whole && live(id) {
            continue;
        }
        match CacheLock::take(store, id, Duration::ZERO) {
            Ok(_lock) => {
                let path = directory::below(&folder, &entry.name);
                file::remove_if_there(store.backend(), &path)?;
            }
            Err(StoreError::Busy { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
