//! A directory tree in memory, with the locks of a real one.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::fault::Gate;
use super::{Backend, Entry, EntryKind, Lock, LockMode, Metadata, ReadFile, RelPath, WriteFile};

pub(super) mod disk;
mod file;

use disk::{Disk, Inode, Node, Op};

/// What a read-write file system in memory says is free, where nobody limits it.
const FREE_BYTES: u64 = 1 << 50;

/// A directory tree in memory. Clones share it, locks included.
#[derive(Clone, Debug)]
pub struct MemBackend {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    disk: Mutex<Disk>,
    unlocked: Condvar,
    gate: Option<Gate>,
}

impl MemBackend {
    /// An empty tree.
    #[must_use]
    pub fn new() -> Self {
        Self::of(Disk::new(), None)
    }

    /// A tree of its own with the same files, nothing of it locked.
    #[must_use]
    pub fn snapshot(&self) -> Self {
        Self::of(self.image(), None)
    }

    /// The bytes of a file, to be changed in place behind everybody's back.
    pub fn tamper(&self, path: &RelPath, change: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let mut disk = self.disk();
        let inode = disk.find(path)?;
        change(disk.bytes_mut(inode)?);
        Ok(())
    }

    pub(super) fn of(disk: Disk, gate: Option<Gate>) -> Self {
        Self {
            shared: Arc::new(Shared {
                disk: Mutex::new(disk),
                unlocked: Condvar::new(),
                gate,
            }),
        }
    }

    pub(super) fn image(&self) -> Disk {
        self.disk().image()
    }

    pub(super) fn gate(&self) -> Option<&Gate> {
        self.shared.gate.as_ref()
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        // A panic of a test thread leaves the tree as it was between two operations.
        let locked = self.shared.disk.lock();
        locked.unwrap_or_else(PoisonError::into_inner)
    }

    /// The tree, for a call that changes nothing.
    pub(super) fn look(&self) -> io::Result<MutexGuard<'_, Disk>> {
        if let Some(gate) = &self.shared.gate {
            gate.check_power()?;
        }
        Ok(self.disk())
    }

    /// Plans a change and makes it, as far as the gate lets it.
    fn change<T>(&self, plan: impl FnOnce(&mut Disk) -> io::Result<(Op, T)>) -> io::Result<T> {
        let mut disk = self.look()?;
        let (op, value) = plan(&mut disk)?;
        match &self.shared.gate {
            None => disk.apply(&op),
            Some(gate) => gate.pass(&mut disk, op)?,
        }
        Ok(value)
    }

    fn make(&self, path: &RelPath, node: Node) -> io::Result<Inode> {
        self.change(|disk| {
            let (dir, name) = disk.vacant(path)?;
            let inode = disk.add(node);
            let op = Op::Link { dir, name, inode };
            Ok((op, inode))
        })
    }

    fn rename(&self, from: &RelPath, to: &RelPath, replace: bool) -> io::Result<()> {
        self.change(|disk| Ok((disk.plan_rename(from, to, replace)?, ())))
    }

    fn unlink(&self, path: &RelPath, kind: EntryKind) -> io::Result<()> {
        self.change(|disk| Ok((disk.plan_unlink(path, kind)?, ())))
    }

    /// The file to lock at `path`, made where it is missing.
    fn lock_file(&self, path: &RelPath) -> io::Result<Inode> {
        let found = self.look()?.find(path);
        match found {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make(path, Node::empty_file())
            }
            other => other,
        }
    }
}

impl Default for MemBackend {
    fn default() -> Self {
        Self::new()
    }
}

impl Backend for MemBackend {
    fn open(&self, path: &RelPath) -> io::Result<Box<dyn ReadFile>> {
        let mut disk = self.look()?;
        let inode = disk.find(path)?;
        disk.bytes_mut(inode)?;
        drop(disk);
        Ok(Box::new(file::MemReadFile::new(self.clone(), inode)))
    }

    fn create(&self, path: &RelPath) -> io::Result<Box<dyn WriteFile>> {
        let inode = self.make(path, Node::empty_file())?;
        Ok(Box::new(file::MemWriteFile::new(self.clone(), inode)))
    }

    fn create_dir(&self, path: &RelPath) -> io::Result<()> {
        self.make(path, Node::empty_dir()).map(drop)
    }

    fn rename_noreplace(&self, from: &RelPath, to: &RelPath) -> io::Result<()> {
        self.rename(from, to, false)
    }

    fn rename_replace(&self, from: &RelPath, to: &RelPath) -> io::Result<()> {
        self.rename(from, to, true)
    }

    fn remove_file(&self, path: &RelPath) -> io::Result<()> {
        self.unlink(path, EntryKind::File)
    }

    fn remove_dir(&self, path: &RelPath) -> io::Result<()> {
        self.unlink(path, EntryKind::Directory)
    }

    fn sync_dir(&self, path: &RelPath) -> io::Result<()> {
        self.change(|disk| {
            let inode = disk.find(path)?;
            disk.entries(inode)?;
            Ok((Op::Sync { inode }, ()))
        })
    }

    fn list(&self, path: &RelPath) -> io::Result<Vec<Entry>> {
        let disk = self.look()?;
        let entries = disk.entries(disk.find(path)?)?;
        let entries = entries.iter().map(|(name, inode)| Entry {
            name: name.clone(),
            kind: disk.kind(*inode),
        });
        Ok(entries.collect())
    }

    fn metadata(&self, path: &RelPath) -> io::Result<Metadata> {
        let disk = self.look()?;
        let inode = disk.find(path)?;
        let bytes = disk.bytes(inode).unwrap_or_default();
        Ok(Metadata {
            kind: disk.kind(inode),
            len_bytes: bytes.len() as u64,
            allocated_bytes: file::allocated_bytes(bytes),
        })
    }

    fn lock(&self, path: &RelPath, mode: LockMode, wait: Duration) -> io::Result<Box<dyn Lock>> {
        let started = Instant::now();
        loop {
            let inode = self.lock_file(path)?;
            let mut disk = self.look()?;
            while !disk.try_lock(inode, mode) {
                let left = wait.saturating_sub(started.elapsed());
                if left.is_zero() {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                let waited = self.shared.unlocked.wait_timeout(disk, left);
                disk = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
            let linked = disk.find(path).is_ok_and(|found| found == inode);
            drop(disk);
            let lock = MemLock {
                backend: self.clone(),
                inode,
                mode,
            };
            if linked {
                return Ok(Box::new(lock));
            }
        }
    }

    fn free_bytes(&self) -> io::Result<u64> {
        drop(self.look()?);
        Ok(self.gate().and_then(Gate::bytes_left).unwrap_or(FREE_BYTES))
    }
}

#[derive(Debug)]
struct MemLock {
    backend: MemBackend,
    inode: Inode,
    mode: LockMode,
}

impl Lock for MemLock {
    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

impl Drop for MemLock {
    fn drop(&mut self) {
        self.backend.disk().unlock(self.inode, self.mode);
        self.backend.shared.unlocked.notify_all();
    }
}

#[cfg(test)]
mod tests;
