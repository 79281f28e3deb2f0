//! Where the measured files go.

use std::cell::{Cell, RefCell};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sys::statvfs::statvfs;
use nix::unistd::syncfs;
use tempfile::TempDir;

use crate::error::BenchError;

/// A directory of its own, on the file system that is measured.
///
/// What was written is kept for a while and then removed together, by several threads: a file
/// system that discards freed blocks waits for the device once for each extent of a scattered file,
/// up to twenty seconds, and can wait for several files at once.
#[derive(Debug)]
pub(crate) struct Scratch {
    dir: TempDir,
    /// Locked as long as this run lives: what a killed one left is known by that.
    _locked: File,
    /// Written, measured, and not yet removed.
    kept: RefCell<Vec<PathBuf>>,
    kept_bytes: Cell<u64>,
    /// When to remove it.
    budget_bytes: u64,
    names: Cell<u64>,
}

/// Bytes of measured files that are kept at most, if the file system has four times as much room.
const MAX_KEPT_BYTES: u64 = 12 << 30;

/// What the names of directories begin with.
const PREFIX: &str = "vmsnap-bench-";

/// Files that are removed at once.
const REMOVERS: usize = 16;

impl Scratch {
    /// A new directory below `parent`; it goes away with this value.
    pub(crate) fn below(parent: &Path) -> Result<Self, BenchError> {
        let create = || {
            // Nobody removes a directory that is not locked yet.
            let guard = File::open(parent)?;
            guard.lock()?;
            remove_abandoned(parent)?;
            let dir = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent)?;
            let locked = File::open(dir.path())?;
            locked.lock()?;
            Ok((dir, locked))
        };
        let (dir, locked) = create().map_err(BenchError::at("create a directory in", parent))?;
        let room =
            statvfs(dir.path()).map_err(|errno| BenchError::at("look at", parent)(errno.into()))?;
        let free_bytes = room.blocks_available() * room.fragment_size();
        Ok(Self {
            dir,
            _locked: locked,
            kept: RefCell::default(),
            kept_bytes: Cell::default(),
            budget_bytes: MAX_KEPT_BYTES.min(free_bytes / 4),
            names: Cell::default(),
        })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Lets `write` make a new file, and takes it over.
    pub(crate) fn fresh(
        &self,
        write: impl FnOnce(&Path) -> Result<Duration, BenchError>,
    ) -> Result<Duration, BenchError> {
        let number = self.names.replace(self.names.get() + 1);
        let path = self.path().join(format!("file-{number}"));
        let took = write(&path)?;
        if path.exists() {
            self.keep(path)?;
        }
        Ok(took)
    }

    /// Takes over a file, or a directory of files, that was measured.
    ///
    /// It is written back and leaves the page cache, outside of any time: what one contestant leaves
    /// to write is not paid by the next. It is removed later.
    pub(crate) fn keep(&self, path: PathBuf) -> Result<(), BenchError> {
        self.settle()?;
        let bytes = forget_cached(&path).map_err(BenchError::at("look at", &path))?;
        self.kept.borrow_mut().push(path);
        self.kept_bytes.set(self.kept_bytes.get() + bytes);
        if self.kept_bytes.get() > self.budget_bytes {
            self.remove_kept()?;
        }
        Ok(())
    }

    /// Removes a directory at once, its files by several threads.
    pub(crate) fn discard(&self, dir: &Path) -> Result<(), BenchError> {
        let mut files = Vec::new();
        files_below(dir, &mut files).map_err(BenchError::at("look at", dir))?;
        self.kept.borrow_mut().append(&mut files);
        self.remove_kept()?;
        fs::remove_dir_all(dir).map_err(BenchError::at("remove", dir))
    }

    /// Removes all that was kept.
    pub(crate) fn remove_kept(&self) -> Result<(), BenchError> {
        self.kept_bytes.set(0);
        let queue = Mutex::new(self.kept.take());
        let next = || queue.lock().ok().and_then(|mut queue| queue.pop());
        let remove_some = || {
            while let Some(path) = next() {
                let removed = if path.is_dir() {
                    fs::remove_dir_all(&path)
                } else {
                    fs::remove_file(&path)
                };
                removed.map_err(BenchError::at("remove", &path))?;
            }
            Ok(())
        };
        thread::scope(|scope| {
            let removers: Vec<_> = (0..REMOVERS).map(|_| scope.spawn(remove_some)).collect();
            // A remover that panicked left files behind, which the next call does not find.
            removers
                .into_iter()
                .try_for_each(|remover| remover.join().unwrap_or(Err(BenchError::Panicked)))
        })?;
        self.settle()
    }

    /// Writes back all that the file system owes.
    pub(crate) fn settle(&self) -> Result<(), BenchError> {
        let dir = File::open(self.path()).map_err(BenchError::at("open", self.path()))?;
        syncfs(&dir).map_err(|errno| BenchError::at("sync", self.path())(errno.into()))
    }
}

/// Removes what runs left that were killed. A file system may take minutes for it.
fn remove_abandoned(parent: &Path) -> io::Result<()> {
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        if !is_ours || !entry.file_type()?.is_dir() {
            continue;
        }
        let path = entry.path();
        if File::open(&path)?.try_lock().is_ok() {
            eprintln!("removing {}, which a run left behind", path.display());
            fs::remove_dir_all(&path)?;
        }
    }
    Ok(())
}

/// Adds all files below `dir`.
fn files_below(dir: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            files_below(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// Lets the page cache forget a clean file, or the clean files of a directory; how many bytes of
/// blocks they have.
pub(crate) fn forget_cached(path: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;

    if path.is_dir() {
        let entries = fs::read_dir(path)?;
        return entries.map(|entry| forget_cached(&entry?.path())).sum();
    }
    let file = File::open(path)?;
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    Ok(file.metadata()?.blocks() * 512)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_run_left_is_removed_and_what_is_in_use_stays() {
        let parent = tempfile::tempdir().unwrap();
        let first = Scratch::below(parent.path()).unwrap();
        let left = parent.path().join("vmsnap-bench-left");
        let other = parent.path().join("other");
        for dir in [&left, &other] {
            fs::create_dir(dir).unwrap();
            fs::write(dir.join("file"), b"x").unwrap();
        }
        let second = Scratch::below(parent.path()).unwrap();
        assert!(!left.exists() && other.exists());
        assert!(first.path().exists() && second.path().exists());
    }

    #[test]
    fn what_is_kept_is_removed_together_and_beyond_the_budget_at_once() {
        let mut scratch = Scratch::below(&std::env::temp_dir()).unwrap();
        scratch.budget_bytes = 1 << 20;
        let write = |len: usize| {
            let write = |path: &Path| {
                fs::write(path, vec![1; len]).map_err(BenchError::at("write", path))?;
                Ok(Duration::ZERO)
            };
            scratch.fresh(write).unwrap();
        };
        let count = || fs::read_dir(scratch.path()).unwrap().count();
        write(4096);
        write(4096);
        assert_eq!(count(), 2);
        write(2 << 20);
        assert_eq!(count(), 0);
        write(4096);
        scratch.remove_kept().unwrap();
        assert_eq!((count(), scratch.kept_bytes.get()), (0, 0));
        let dir = scratch.path().join("dir");
        fs::create_dir_all(dir.join("empty/deep")).unwrap();
        fs::write(dir.join("empty/file"), b"").unwrap();
        fs::write(dir.join("file"), b"x").unwrap();
        scratch.discard(&dir).unwrap();
        assert_eq!(count(), 0);
    }
}
