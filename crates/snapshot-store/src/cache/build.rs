//! Building a materialised image: shared with the data files where they can, copied otherwise.

use std::io;
use std::ops::ControlFlow;

use serde::Serialize;
use snapshot_format::SnapshotId;
use snapshot_memory::backend::{Backend, RelPath, WriteFile};
use snapshot_memory::{CaptureControl, MemoryImage, Pace, RawBytes, RawStep, RawWriter};

use super::CacheLock;
use crate::directory;
use crate::error::StoreError;
use crate::file;
use crate::store::Store;

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
    /// Bytes of blocks that the file occupies, those that it shares included: zero pages take none
    /// where holes are.
    pub allocated_bytes: u64,
    /// Bytes whose blocks the file shares with data files, as of when it was built now.
    pub shared_bytes: u64,
    /// Bytes that were copied now.
    pub copied_bytes: u64,
}

impl Store {
    /// Builds the materialised image of a snapshot in use, unless it is there.
    ///
    /// Every page is checked on its way. The file gets its name when it is whole and durable.
    /// `control` is told how far the work is, breaks it off, and slows it down. What the file system
    /// has no room for fails before any page is written.
    pub fn warm(&self, id: SnapshotId, control: &CaptureControl) -> Result<WarmReport, StoreError> {
        let span = tracing::info_span!("warm", snapshot = %id);
        let _inside = span.enter();
        self.begin_write()?;
        let stored = self.image(id)?;
        let _lock = CacheLock::take(self, id, self.lock_wait())?;
        let (built, bytes) = match self.cached_image(id)? {
            Some(_) => (false, RawBytes::default()),
            None => (true, self.build(id, stored.image(), control)?),
        };
        let path = directory::cached(id);
        let found = self.backend().metadata(&path);
        let found = found.map_err(|error| StoreError::io("measure", &path, error))?;
        Ok(WarmReport {
            id,
            built,
            file: path.as_str().to_owned(),
            len_bytes: found.len_bytes,
            allocated_bytes: found.allocated_bytes,
            shared_bytes: bytes.shared,
            copied_bytes: bytes.copied,
        })
    }

    /// The lock is held.
    fn build(
        &self,
        id: SnapshotId,
        image: &MemoryImage,
        control: &CaptureControl,
    ) -> Result<RawBytes, StoreError> {
        let fresh = directory::caching(id);
        file::remove_if_there(self.backend(), &fresh)?;
        let path = directory::cached(id);
        let written = fill(self.backend(), &fresh, image, control).and_then(|bytes| {
            let named = self.backend().rename_noreplace(&fresh, &path);
            named.map_err(|error| StoreError::io("publish as", &path, error))?;
            Ok(bytes)
        });
        let bytes = written.inspect_err(|_| {
            // A leftover is removed by the next build, or when the store is opened.
            drop(self.backend().remove_file(&fresh));
        })?;
        let folder = directory::cache_directory();
        let synced = file::sync_dir(self.backend(), &folder);
        synced.map_err(|source| StoreError::DurabilityUncertain {
            what: format!("the materialised image {path}"),
            source,
        })?;
        Ok(bytes)
    }
}

fn fill(
    backend: &dyn Backend,
    path: &RelPath,
    image: &MemoryImage,
    control: &CaptureControl,
) -> Result<RawBytes, StoreError> {
    let failed = |action| move |error| StoreError::io(action, path, error);
    let mut file = backend.create(path).map_err(failed("create"))?;
    let mut writer = RawWriter::start(image, file.as_mut(), path.as_str())?;
    let shares = writer.share()?;
    require_room(backend, path, writer.needed_bytes()?)?;
    let total_bytes = image.layout().len_bytes();
    let mut pace = Pace::start(control.cancel.clone(), control.bytes_per_second);
    let written = writer.run(&mut |step: RawStep| {
        control.report(step.done_bytes, total_bytes);
        match pace.spend(step.next_bytes) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    })?;
    let written = written.ok_or(StoreError::Interrupted)?;
    tracing::debug!(shares, ?written, "all pages are in place");
    file.make_read_only()
        .map_err(failed("take write permission from"))?;
    sync(file.as_mut()).map_err(failed("sync"))?;
    Ok(written)
}

/// Refuses what the file system, or a quota that it counts by, has no room for.
fn require_room(
    backend: &dyn Backend,
    path: &RelPath,
    needed_bytes: u64,
) -> Result<(), StoreError> {
    let free = backend.free_bytes();
    let free_bytes =
        free.map_err(|error| StoreError::io("measure the free space of", path, error))?;
    if free_bytes < needed_bytes {
        return Err(StoreError::NoRoom {
            path: path.clone(),
            needed_bytes,
            free_bytes,
        });
    }
    Ok(())
}

fn sync(file: &mut dyn WriteFile) -> io::Result<()> {
    use snapshot_format::sabotage::Sabotage;
    match file.sync() {
        Err(_) if Sabotage::IgnoredFsyncError.is_on() => Ok(()),
        synced => synced,
    }
}
