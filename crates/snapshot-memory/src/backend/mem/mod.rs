//! A directory tree in memory, with the locks of a real one.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::fault::Gate;
use super::{
    Backend, Entry, EntryKind, FileAccess, FileSystem, Lock, LockMode, Metadata, ReadFile, RelPath,
    WriteFile,
};

mod content;
pub(super) mod disk;
mod file;
mod hints;
mod late;
mod nodes;
pub(super) mod op;

use content::Content;
use disk::{Disk, Inode, Node};
pub use hints::HoleHints;
pub use nodes::{Node as MemNode, Nodes};
use op::Op;

/// What a read-write file system in memory says is free, where nobody limits it.
const FREE_BYTES: u64 = 1 << 50;

/// A directory tree in memory. Clones share it, locks included.
///
/// It answers with the kinds of error that [`FsBackend`](super::FsBackend) gives.
#[derive(Clone, Debug)]
pub struct MemBackend {
    shared: Arc<Shared>,
}

/// What someone else may have put into a tree: listed as [`EntryKind::Other`], never opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Planted {
    /// A symbolic link.
    SymbolicLink,
    /// A pipe.
    Pipe,
}

#[derive(Debug)]
struct Shared {
    disk: Mutex<Disk>,
    unlocked: Condvar,
    gate: Option<Arc<Gate>>,
}

impl MemBackend {
    /// An empty tree.
    #[must_use]
    pub fn new() -> Self {
        Self::of(Disk::new(), None)
    }

    /// A tree of its own with the same files: nothing of it locked, writable, with honest hints.
    #[must_use]
    pub fn snapshot(&self) -> Self {
        Self::of(self.image(), None)
    }

    /// Changes the bytes of a file in place, behind everybody's back.
    pub fn tamper(&self, path: &RelPath, change: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let mut disk = self.disk();
        let inode = disk.find(path)?;
        let mut bytes = disk.content(inode)?.to_bytes();
        change(&mut bytes);
        disk.edit(inode, |content| *content = Content::from_bytes(&bytes));
        Ok(())
    }

    /// Puts something at `path` that is neither file nor directory.
    pub fn plant(&self, path: &RelPath, what: Planted) -> io::Result<()> {
        let mut disk = self.disk();
        let slot = disk.vacant(path)?;
        let inode = disk.add(Node::Planted(what));
        disk.apply(&Op::Link { slot, inode });
        Ok(())
    }

    /// Makes every change fail with `ReadOnlyFilesystem`, or lets them pass again.
    pub fn set_read_only(&self, is_read_only: bool) {
        self.disk().is_read_only = is_read_only;
    }

    /// Sets what is said of the holes in files.
    pub fn set_hole_hints(&self, hints: HoleHints) {
        self.disk().hints = hints;
    }

    /// Lets files share blocks, as some file systems do; snapshots of the tree keep that.
    pub fn set_shares_blocks(&self, shares_blocks: bool) {
        self.disk().shares_blocks = shares_blocks;
    }

    /// Whether [`make_read_only`](WriteFile::make_read_only) was called for the file at `path`.
    pub fn is_sealed(&self, path: &RelPath) -> io::Result<bool> {
        let disk = self.disk();
        Ok(disk.is_sealed(disk.find(path)?))
    }

    pub(super) fn of(disk: Disk, gate: Option<Arc<Gate>>) -> Self {
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

    fn disk(&self) -> MutexGuard<'_, Disk> {
        // A panic of a test thread leaves the tree as it was between two operations.
        let locked = self.shared.disk.lock();
        locked.unwrap_or_else(PoisonError::into_inner)
    }

    /// The tree, for a call that changes nothing.
    fn look(&self) -> io::Result<MutexGuard<'_, Disk>> {
        if let Some(gate) = &self.shared.gate {
            gate.check_power()?;
        }
        Ok(self.disk())
    }

    /// Plans a change and makes it, as far as the gate lets it.
    fn change<T>(&self, plan: impl FnOnce(&mut Disk) -> io::Result<(Op, T)>) -> io::Result<T> {
        let mut disk = self.look()?;
        let (op, value) = plan(&mut disk)?;
        self.perform(&mut disk, op)?;
        Ok(value)
    }

    fn perform(&self, disk: &mut Disk, op: Op) -> io::Result<()> {
        if disk.is_read_only && !matches!(op, Op::Sync { .. }) {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        match &self.shared.gate {
            None => {
                disk.apply(&op);
                Ok(())
            }
            Some(gate) => gate.pass(disk, op),
        }
    }

    fn make(&self, path: &RelPath, node: Node) -> io::Result<Inode> {
        self.change(|disk| {
            let slot = disk.vacant(path)?;
            let inode = disk.add(node);
            Ok((Op::Link { slot, inode }, inode))
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
        let mut disk = self.look()?;
        match disk.find(path) {
            Ok(inode) => disk.content(inode).map(|_| inode),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let slot = disk.vacant(path)?;
                let inode = disk.add(Node::empty_file());
                self.perform(&mut disk, Op::Link { slot, inode })?;
                Ok(inode)
            }
            Err(error) => Err(error),
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
        let disk = self.look()?;
        let inode = disk.find(path)?;
        disk.content(inode)?;
        drop(disk);
        Ok(Box::new(file::MemReadFile::new(self.clone(), inode)))
    }

    fn create(&self, path: &RelPath) -> io::Result<Box<dyn WriteFile>> {
        if *path == RelPath::root() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = self.make(path, Node::empty_file())?;
        Ok(Box::new(file::MemWriteFile::new(self.clone(), inode)))
    }

    fn append(&self, path: &RelPath, bytes: &[u8]) -> io::Result<()> {
        let found = self.look()?.find(path);
        let (inode, is_new) = match found {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                (self.make(path, Node::empty_file())?, true)
            }
            found => (found?, false),
        };
        let end = self.look()?.content(inode)?.len();
        let mut file = file::MemWriteFile::new(self.clone(), inode);
        file.write_all_at(end, bytes)?;
        file.sync()?;
        match path.parent() {
            Some(parent) if is_new => self.sync_dir(&parent),
            _ => Ok(()),
        }
    }

    fn create_dir(&self, path: &RelPath) -> io::Result<()> {
        self.make(path, Node::empty_dir()).map(drop)
    }

    /// There are no users in memory: the change is counted, and leaves no trace.
    fn set_access(&self, path: &RelPath, _access: FileAccess) -> io::Result<()> {
        self.change(|disk| {
            let inode = disk.find(path)?;
            Ok((Op::Sync { inode }, ()))
        })
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
        let content = disk.content(inode).ok();
        Ok(Metadata {
            kind: disk.kind(inode),
            len_bytes: content.map_or(0, Content::len),
            allocated_bytes: content.map_or(0, Content::allocated_bytes),
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
        let limit = self.shared.gate.as_ref().and_then(|gate| gate.bytes_left());
        Ok(limit.unwrap_or(FREE_BYTES))
    }

    fn file_system(&self) -> io::Result<FileSystem> {
        Ok(FileSystem {
            name: "memory".to_owned(),
            is_network: false,
            is_read_only: self.look()?.is_read_only,
        })
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
