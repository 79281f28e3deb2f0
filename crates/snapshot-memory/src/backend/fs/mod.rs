//! The real file system below a directory descriptor.

use std::fs::{File, Permissions, TryLockError};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, fchown};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::libc::mode_t;
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, mkdirat};
use nix::sys::statvfs::{FsFlags, fstatvfs};
use nix::unistd::{AccessFlags, UnlinkatFlags, faccessat, unlinkat};

use super::{
    Backend, Entry, EntryKind, FileAccess, FileStamp, FileSystem, Lock, LockMode, Metadata,
    ReadFile, Refusal, RelPath, WriteFile, stamp::nanoseconds,
};
use crate::direct::Probe;

#[cfg(any(test, target_os = "macos"))]
mod components;
mod file;
#[cfg(target_os = "linux")]
mod holders;
#[cfg(target_os = "linux")]
mod linux;
mod list;
#[cfg(target_os = "macos")]
mod macos;
mod root;
#[cfg(target_os = "linux")]
mod share;

use file::{FsReadFile, FsWriteFile};
#[cfg(target_os = "linux")]
use linux as system;
#[cfg(target_os = "macos")]
use macos as system;
use system::open_at;

/// Bytes of one unit of `st_blocks`, whatever the file system's block.
const STAT_BLOCK_BYTES: u64 = 512;

/// How long a lock that is held by another is left alone before it is tried again.
const LOCK_POLL: Duration = Duration::from_millis(2);

/// The tree below one directory of the file system.
///
/// Every name is resolved from the descriptor of that directory, which may have been moved or come
/// from another process since: on Linux by `openat2` with `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS |
/// RESOLVE_NO_MAGICLINKS`, on macOS by `openat` with `O_NOFOLLOW` one component at a time.
///
/// Writing past the page cache uses an io_uring; where that is refused, `pwrite64` takes its place.
/// `snapshot_memory::syscalls` lists the system calls.
#[derive(Debug)]
pub struct FsBackend {
    root: OwnedFd,
    owner: u32,
    probe: Probe,
}

impl FsBackend {
    /// The tree below the directory `path`, which must exist.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::from_fd(root::open(path)?)
    }

    /// The tree below the directory `path`, which is made (mode 0700) where it is missing.
    ///
    /// Missing ancestors are made as well, and each new entry is made durable from the bottom up.
    pub fn create(path: &Path) -> io::Result<Self> {
        root::create(path)?;
        Self::open(path)
    }

    /// The tree below an open directory.
    pub fn from_fd(root: OwnedFd) -> io::Result<Self> {
        let stat = fstat(&root)?;
        if file_type(stat.st_mode) == EntryKind::Directory {
            Ok(Self {
                root,
                owner: stat.st_uid,
                probe: Probe::default(),
            })
        } else {
            Err(Errno::ENOTDIR.into())
        }
    }

    /// The descriptor of the root.
    #[must_use]
    pub fn root_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Opens the directory that holds `path`, to name entries in.
    fn open_parent(&self, path: &RelPath) -> io::Result<OwnedFd> {
        let parent = path.parent().ok_or(Errno::EBUSY)?;
        open_at(&self.root, &parent, system::NAMING, Mode::empty())
    }

    /// What `path` is, a trailing link itself.
    fn stat(&self, path: &RelPath) -> io::Result<FileStat> {
        if path.parent().is_none() {
            return Ok(fstat(&self.root)?);
        }
        let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
        Ok(fstatat(self.open_parent(path)?, path.name(), flags)?)
    }

    fn unlink(&self, path: &RelPath, flags: UnlinkatFlags) -> io::Result<()> {
        unlinkat(self.open_parent(path)?, path.name(), flags)?;
        Ok(())
    }

    fn open_lock_file(&self, path: &RelPath) -> io::Result<File> {
        // Without O_CREAT first: a reader of a read-only store can lock what exists.
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let fd = match open_at(&self.root, path, flags, Mode::empty()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mode = Mode::S_IRUSR | Mode::S_IWUSR;
                open_at(&self.root, path, flags | OFlag::O_CREAT, mode)?
            }
            other => other?,
        };
        self.check_file(&fd)?;
        Ok(File::from(fd))
    }

    /// Refuses what is no regular file with one name, of ours or of the owner of the root: who owns
    /// a directory can put anything there.
    fn check_file(&self, fd: &OwnedFd) -> io::Result<()> {
        let stat = fstat(fd)?;
        if file_type(stat.st_mode) != EntryKind::File {
            return Err(Refusal::NotRegular.into());
        }
        match wide(stat.st_nlink) {
            // Removed between our open and now.
            0 => return Err(io::ErrorKind::NotFound.into()),
            1 => {}
            links => return Err(Refusal::ManyLinks { links }.into()),
        }
        let is_known = [0, self.owner, nix::unistd::geteuid().as_raw()].contains(&stat.st_uid);
        if !is_known {
            return Err(Refusal::ForeignOwner { uid: stat.st_uid }.into());
        }
        Ok(())
    }

    /// Whether `file` is what `path` names now.
    fn is_linked(&self, path: &RelPath, file: &File) -> io::Result<bool> {
        let ours = fstat(file)?;
        match self.stat(path) {
            Ok(found) => Ok((found.st_dev, found.st_ino) == (ours.st_dev, ours.st_ino)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Backend for FsBackend {
    fn open(&self, path: &RelPath) -> io::Result<Box<dyn ReadFile>> {
        // O_NONBLOCK: a planted pipe must not hang the open.
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let fd = open_at(&self.root, path, flags, Mode::empty())?;
        self.check_file(&fd)?;
        Ok(Box::new(FsReadFile::new(File::from(fd))))
    }

    fn create(&self, path: &RelPath) -> io::Result<Box<dyn WriteFile>> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOCTTY;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let fd = open_at(&self.root, path, flags, mode)?;
        let probe = self.probe.clone();
        Ok(Box::new(FsWriteFile::new(File::from(fd), probe)))
    }

    fn append(&self, path: &RelPath, bytes: &[u8]) -> io::Result<()> {
        let flags = OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let (fd, is_new) = match open_at(&self.root, path, flags, Mode::empty()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mode = Mode::S_IRUSR | Mode::S_IWUSR;
                let flags = flags | OFlag::O_CREAT | OFlag::O_EXCL;
                (open_at(&self.root, path, flags, mode)?, true)
            }
            found => (found?, false),
        };
        self.check_file(&fd)?;
        let mut file = File::from(fd);
        // A part of it is no line: whoever reads it is to see that it was cut short.
        if file.write(bytes)? != bytes.len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        file.sync_data()?;
        match path.parent() {
            Some(parent) if is_new => self.sync_dir(&parent),
            _ => Ok(()),
        }
    }

    fn create_dir(&self, path: &RelPath) -> io::Result<()> {
        mkdirat(self.open_parent(path)?, path.name(), Mode::S_IRWXU)?;
        Ok(())
    }

    fn set_access(&self, path: &RelPath, access: FileAccess) -> io::Result<()> {
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let fd = open_at(&self.root, path, flags, Mode::empty())?;
        if file_type(fstat(&fd)?.st_mode) != EntryKind::Directory {
            self.check_file(&fd)?;
        }
        let file = File::from(fd);
        if access.owner.is_some() || access.group.is_some() {
            fchown(&file, access.owner, access.group)?;
        }
        // After the owner, as a change of that takes bits away.
        file.set_permissions(Permissions::from_mode(access.mode))?;
        file.sync_all()
    }

    fn owner(&self) -> Option<u32> {
        Some(self.owner)
    }

    fn rename_noreplace(&self, from: &RelPath, to: &RelPath) -> io::Result<()> {
        let dirs = (self.open_parent(from)?, self.open_parent(to)?);
        system::rename_noreplace(&dirs.0, from.name(), &dirs.1, to.name())
    }

    fn rename_replace(&self, from: &RelPath, to: &RelPath) -> io::Result<()> {
        let dirs = (self.open_parent(from)?, self.open_parent(to)?);
        system::rename_replace(&dirs.0, from.name(), &dirs.1, to.name())
    }

    fn remove_file(&self, path: &RelPath) -> io::Result<()> {
        self.unlink(path, UnlinkatFlags::NoRemoveDir)
    }

    fn remove_dir(&self, path: &RelPath) -> io::Result<()> {
        self.unlink(path, UnlinkatFlags::RemoveDir)
    }

    fn sync_dir(&self, path: &RelPath) -> io::Result<()> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let fd = open_at(&self.root, path, flags, Mode::empty())?;
        File::from(fd).sync_all()
    }

    fn list(&self, path: &RelPath) -> io::Result<Vec<Entry>> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        list::entries(open_at(&self.root, path, flags, Mode::empty())?)
    }

    fn metadata(&self, path: &RelPath) -> io::Result<Metadata> {
        let stat = self.stat(path)?;
        Ok(Metadata {
            kind: file_type(stat.st_mode),
            len_bytes: unsigned(stat.st_size)?,
            allocated_bytes: unsigned(stat.st_blocks)?.saturating_mul(STAT_BLOCK_BYTES),
        })
    }

    fn stamps(
        &self,
        directory: &RelPath,
        folders: &[RelPath],
        files: &[RelPath],
    ) -> io::Result<Vec<Option<FileStamp>>> {
        let directory = open_at(&self.root, directory, system::NAMING, Mode::empty())?;
        let mut stamps = Vec::with_capacity(folders.len().saturating_mul(files.len()));
        let mut path = String::new();
        for folder in folders {
            for file in files {
                path.clear();
                path.extend([folder.as_str(), "/", file.as_str()]);
                stamps.push(stamp(&directory, &path));
            }
        }
        Ok(stamps)
    }

    fn lock(&self, path: &RelPath, mode: LockMode, wait: Duration) -> io::Result<Box<dyn Lock>> {
        let started = Instant::now();
        loop {
            let file = self.open_lock_file(path)?;
            let tried = match mode {
                LockMode::Shared => file.try_lock_shared(),
                LockMode::Exclusive => file.try_lock(),
            };
            match tried {
                // The holder before us may have removed the file while we waited for it.
                Ok(()) if self.is_linked(path, &file)? => return Ok(Box::new(FsLock(file))),
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let left = wait.saturating_sub(started.elapsed());
                    if left.is_zero() {
                        return Err(io::ErrorKind::WouldBlock.into());
                    }
                    std::thread::sleep(left.min(LOCK_POLL));
                }
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = fstatvfs(&self.root)?;
        if stat.blocks() == 0 {
            // Such as ramfs, which ends where memory does.
            return Ok(u64::MAX);
        }
        Ok(wide(stat.blocks_available()).saturating_mul(wide(stat.fragment_size())))
    }

    fn lock_holders(&self, path: &RelPath) -> io::Result<Vec<u32>> {
        system::lock_holders(&self.stat(path)?)
    }

    fn file_system(&self) -> io::Result<FileSystem> {
        let flags = fstatvfs(&self.root)?.flags();
        let may_write = faccessat(&self.root, ".", AccessFlags::W_OK, AtFlags::AT_EACCESS).is_ok();
        let read_only = flags.contains(FsFlags::ST_RDONLY) || !may_write;
        system::file_system(&self.root, read_only)
    }
}

/// A locked file. Closing the descriptor releases the lock, unless a copy of it was passed on.
#[derive(Debug)]
struct FsLock(File);

impl Lock for FsLock {
    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }
}

fn file_type(mode: mode_t) -> EntryKind {
    match SFlag::from_bits_truncate(mode) & SFlag::S_IFMT {
        SFlag::S_IFREG => EntryKind::File,
        SFlag::S_IFDIR => EntryKind::Directory,
        _ => EntryKind::Other,
    }
}

/// The stamp of `path` below `directory`; `None` where there is none to tell.
fn stamp(directory: &OwnedFd, path: &str) -> Option<FileStamp> {
    let stat = fstatat(directory, path, AtFlags::AT_SYMLINK_NOFOLLOW).ok()?;
    Some(FileStamp {
        device: system::device(&stat),
        inode: wide(stat.st_ino),
        len_bytes: unsigned(stat.st_size).ok()?,
        modified_ns: nanoseconds(stat.st_mtime, stat.st_mtime_nsec),
        changed_ns: nanoseconds(stat.st_ctime, stat.st_ctime_nsec),
    })
}

/// A count whose width differs between systems.
fn wide(count: impl Into<u64>) -> u64 {
    count.into()
}

fn unsigned(value: i64) -> io::Result<u64> {
    u64::try_from(value).map_err(|_| io::Error::other("the file system gave a negative size"))
}

fn read_only() -> Permissions {
    Permissions::from_mode(0o400)
}

#[cfg(test)]
mod tests;
