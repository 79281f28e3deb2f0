//! Where an index lies, and who may use it at the same time.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use snapshot_format::SnapshotId;
use snapshot_memory::backend::{Backend, FsBackend, LockMode, RelPath};

use super::database::{Database, Fault};
use crate::directory;
use crate::lock::Held;

/// What came of the index of a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum IndexUse {
    /// It was there, and is used.
    Found,
    /// It was made, or made anew.
    Made,
    /// There is none to use: everything is read from the files.
    None,
}

/// An index that is open, and the shared lock that keeps others from removing it.
#[derive(Debug)]
pub(super) struct Opened {
    // Fields are dropped in this order: the database is closed while it is locked.
    pub(super) database: Database,
    _lock: Held,
}

/// The directory of an index.
#[derive(Debug)]
pub(super) struct Place {
    backend: FsBackend,
    /// The directory itself, reached by no link.
    path: PathBuf,
    store: SnapshotId,
}

/// The database.
const FILE: &str = "index.sqlite";

/// What SQLite puts beside it.
const BESIDE: [&str; 3] = [
    "index.sqlite-wal",
    "index.sqlite-shm",
    "index.sqlite-journal",
];

/// What its users lock.
const LOCK: &str = "index.lock";

impl Place {
    /// The place at `path`, which is made where it is missing. `None`: nothing can lie there.
    pub(super) fn at(path: &Path, store: SnapshotId) -> io::Result<Option<Self>> {
        let backend = FsBackend::create(path)?;
        let found = backend.file_system()?;
        if found.is_network || found.is_read_only {
            return Ok(None);
        }
        // SQLite refuses a path with a link in it.
        let path = fs::canonicalize(path)?;
        Ok(Some(Self {
            backend,
            path,
            store,
        }))
    }

    /// Opens the index. One that is missing, or that is none to use, is made anew, unless others
    /// have it open.
    pub(super) fn open(&self) -> io::Result<(Option<Opened>, IndexUse)> {
        if let Some(opened) = self.open_there()? {
            return Ok((Some(opened), IndexUse::Found));
        }
        if !self.remove()? {
            return Ok((None, IndexUse::None));
        }
        let opened = self.open_there()?;
        let made = opened.as_ref().map_or(IndexUse::None, |_| IndexUse::Made);
        Ok((opened, made))
    }

    /// Removes the index and makes an empty file in its place: `false` where others have it open.
    pub(super) fn remove(&self) -> io::Result<bool> {
        let Some(_alone) = self.lock(LockMode::Exclusive)? else {
            return Ok(false);
        };
        for name in [FILE].iter().chain(&BESIDE) {
            match self.backend.remove_file(&file(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        // Mode 0600, which SQLite keeps for what it puts beside it.
        self.backend.create(&file(FILE)).map(|_| true)
    }

    fn open_there(&self) -> io::Result<Option<Opened>> {
        let Some(lock) = self.lock(LockMode::Shared)? else {
            return Ok(None);
        };
        if !self.is_there()? {
            return Ok(None);
        }
        match Database::open(&self.path.join(FILE), self.store) {
            Ok(database) => Ok(Some(Opened {
                database,
                _lock: lock,
            })),
            Err(Fault::Busy) => Err(io::ErrorKind::WouldBlock.into()),
            Err(Fault::Unusable(problem)) => {
                tracing::debug!(%problem, "the index is made anew");
                Ok(None)
            }
        }
    }

    /// Whether the database is there. An error where something else is in its place, or somebody
    /// else's: that is neither ours to open nor to remove.
    ///
    /// It is not opened to find out: closing it would end the locks that SQLite has on it in this
    /// process.
    fn is_there(&self) -> io::Result<bool> {
        let found = match fs::symlink_metadata(self.path.join(FILE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            found => found?,
        };
        let owner = fs::metadata(&self.path)?.uid();
        let is_ours = found.is_file() && found.nlink() == 1 && [0, owner].contains(&found.uid());
        if is_ours {
            Ok(true)
        } else {
            Err(io::Error::other(
                "what lies in the place of the index is not ours",
            ))
        }
    }

    /// The lock, if it can be had at once.
    fn lock(&self, mode: LockMode) -> io::Result<Option<Held>> {
        match self.backend.lock(&file(LOCK), mode, Duration::ZERO) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            taken => taken.map(Some),
        }
    }
}

fn file(name: &str) -> RelPath {
    directory::below(&RelPath::root(), name)
}
