//! The directory of a stage, removed unless it was published.

use std::fmt;
use std::io;
use std::sync::Arc;

use snapshot_format::sabotage::Sabotage;

use crate::backend::{Backend, EntryKind, RelPath};
use crate::error::{FileError, SinkError};

/// How deep directories are nested in a stage.
const MAX_DEPTH: usize = 4;

/// A staged directory. Dropping it removes it, as well as that goes: what remains is swept up
/// when the store is opened.
pub(super) struct StageDir {
    backend: Arc<dyn Backend>,
    path: RelPath,
    is_ours: bool,
}

impl StageDir {
    /// Makes the directory `path`, which must not exist.
    pub(super) fn create(backend: Arc<dyn Backend>, path: RelPath) -> Result<Self, FileError> {
        backend
            .create_dir(&path)
            .map_err(FileError::at("create the directory", &path))?;
        Ok(Self {
            backend,
            path,
            is_ours: true,
        })
    }

    pub(super) fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    pub(super) fn path(&self) -> &RelPath {
        &self.path
    }

    /// Refuses what the file system has no room for.
    pub(super) fn require_room(&self, needed_bytes: u64) -> Result<(), SinkError> {
        let free = self.backend.free_bytes();
        let measured = FileError::at("measure the free space of", &self.path);
        let free_bytes = free.map_err(measured)?;
        if free_bytes < needed_bytes {
            return Err(SinkError::NoRoom {
                needed_bytes,
                free_bytes,
            });
        }
        Ok(())
    }

    /// Leaves the directory where it is: whoever opens the store next removes it.
    pub(super) fn leave(&mut self) {
        self.is_ours = false;
    }

    /// Makes the names in the directory durable.
    pub(super) fn sync(&self) -> Result<(), FileError> {
        sync_dir(&*self.backend, &self.path)
    }

    /// Gives the directory the name `target`, which must not exist. From then on it is not
    /// removed any more.
    pub(super) fn rename(&mut self, target: &RelPath) -> Result<(), FileError> {
        self.backend
            .rename_noreplace(&self.path, target)
            .map_err(FileError::at("publish as", target))?;
        self.is_ours = false;
        self.path = target.clone();
        Ok(())
    }
}

impl Drop for StageDir {
    fn drop(&mut self) {
        if !self.is_ours {
            return;
        }
        if let Err(error) = remove(&*self.backend, &self.path, MAX_DEPTH) {
            tracing::warn!(stage = %self.path, %error, "an unfinished snapshot remains");
        }
    }
}

impl fmt::Debug for StageDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StageDir({})", self.path)
    }
}

/// Makes the names in a directory durable.
pub(super) fn sync_dir(backend: &dyn Backend, path: &RelPath) -> Result<(), FileError> {
    if Sabotage::NoDirFsync.is_on() {
        return Ok(());
    }
    backend
        .sync_dir(path)
        .map_err(FileError::at("sync the directory", path))
}

/// Removes the stage `name` in `folder` that a writer left.
pub(crate) fn remove_stage(
    backend: &dyn Backend,
    folder: &RelPath,
    name: &str,
) -> Result<(), FileError> {
    let removed = folder
        .join(name)
        .map_err(io::Error::other)
        .and_then(|path| remove(backend, &path, MAX_DEPTH));
    removed.map_err(FileError::at("remove a stage of", folder))
}

fn remove(backend: &dyn Backend, path: &RelPath, depth: usize) -> io::Result<()> {
    for entry in backend.list(path)? {
        let child = path.join(&entry.name).map_err(io::Error::other)?;
        match entry.kind {
            EntryKind::Directory if depth > 0 => remove(backend, &child, depth - 1)?,
            _ => backend.remove_file(&child)?,
        }
    }
    backend.remove_dir(path)
}
