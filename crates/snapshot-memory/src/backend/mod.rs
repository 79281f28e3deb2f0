//! The one way to files: everything below a store's directory descriptor goes through a [`Backend`].
//!
//! A backend is rooted at a directory. Names are [`RelPath`]s, resolved without following a
//! symbolic link in any component. The real one is [`FsBackend`]; under the feature
//! `testing` there are one in memory and one that counts, cuts and fails calls.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::direct::{QueueMode, WriteQueue};
use crate::source::HostRun;

#[cfg(any(test, feature = "testing"))]
mod fault;
#[cfg(any(target_os = "linux", target_os = "macos"))]
mod fs;
mod host;
#[cfg(any(test, feature = "testing"))]
mod mem;
mod path;
mod refusal;
mod stamp;
#[cfg(target_os = "macos")]
mod sysctl;

#[cfg(any(test, feature = "testing"))]
pub use fault::{Call, CrashState, Fault, FaultBackend, PowerLost};
#[cfg(any(target_os = "linux", target_os = "macos"))]
pub use fs::FsBackend;
pub use host::{FileSystem, HostIdentity};
#[cfg(any(test, feature = "testing"))]
pub use mem::{HoleHints, MemBackend, MemNode, Nodes, Planted};
pub use path::{InvalidName, RelPath};
pub use refusal::Refusal;
pub use stamp::FileStamp;

/// A directory tree that files are read from and written to.
///
/// Every call may fail with any [`io::Error`]; its kind is kept as the system gave it
/// (`NotFound`, `AlreadyExists`, `StorageFull`, `QuotaExceeded`, `ReadOnlyFilesystem`, …).
pub trait Backend: Send + Sync + fmt::Debug {
    /// Opens a file to read: a regular file with one link, owned by the process's user, by root, or by
    /// the owner of the root directory. Anything else is a [`Refusal`].
    fn open(&self, path: &RelPath) -> io::Result<Box<dyn ReadFile>>;

    /// Creates a file that must not exist, mode 0600.
    fn create(&self, path: &RelPath) -> io::Result<Box<dyn WriteFile>>;

    /// Writes `bytes` behind the last byte of a file, wherever that is by then, with one call, and
    /// makes them durable. A file that is missing is made, mode 0600, and its name made durable.
    ///
    /// After an error any part of `bytes` may be there.
    fn append(&self, path: &RelPath, bytes: &[u8]) -> io::Result<()>;

    /// Creates a directory that must not exist, mode 0700.
    fn create_dir(&self, path: &RelPath) -> io::Result<()>;

    /// Gives a file or a directory an owner, a group and permissions, and makes that durable.
    fn set_access(&self, path: &RelPath, access: FileAccess) -> io::Result<()>;

    /// The user that the root directory belongs to; `None` where a backend has no users.
    fn owner(&self) -> Option<u32> {
        None
    }

    /// Renames a file or a directory; fails with `AlreadyExists` where `to` exists.
    fn rename_noreplace(&self, from: &RelPath, to: &RelPath) -> io::Result<()>;

    /// Renames a file over `to`, which may exist.
    fn rename_replace(&self, from: &RelPath, to: &RelPath) -> io::Result<()>;

    /// Removes a file.
    fn remove_file(&self, path: &RelPath) -> io::Result<()>;

    /// Removes an empty directory.
    fn remove_dir(&self, path: &RelPath) -> io::Result<()>;

    /// Makes the entries of a directory durable.
    fn sync_dir(&self, path: &RelPath) -> io::Result<()>;

    /// The entries of a directory, sorted by name. Names that are no valid component are left out.
    fn list(&self, path: &RelPath) -> io::Result<Vec<Entry>>;

    /// What `path` is, without following a symbolic link.
    fn metadata(&self, path: &RelPath) -> io::Result<Metadata>;

    /// The stamps of `files` in each of `folders`, which lie below `directory`: those of the first
    /// folder, then those of the next; `None` for what is not there or cannot be looked at. Nothing
    /// but `directory` is opened, and a symbolic link at the end is itself what is looked at: a
    /// stamp says whether to read a file again, never what is in it.
    ///
    /// An error is `Unsupported` by default: a backend in memory has no stamps to tell.
    fn stamps(
        &self,
        _directory: &RelPath,
        _folders: &[RelPath],
        _files: &[RelPath],
    ) -> io::Result<Vec<Option<FileStamp>>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Locks `path`, a file that is made where it is missing (mode 0600).
    ///
    /// Advisory, held by the returned guard and released when that is dropped or the process dies.
    /// A lock that cannot be had within `wait` is `WouldBlock`. The lock is on a file that is
    /// still linked at `path` when this returns.
    fn lock(&self, path: &RelPath, mode: LockMode, wait: Duration) -> io::Result<Box<dyn Lock>>;

    /// Bytes that this process may still write to the file system below the root; `u64::MAX` where
    /// the file system does not say.
    fn free_bytes(&self) -> io::Result<u64>;

    /// The processes that hold the lock at `path`, as far as the system tells: for messages only.
    ///
    /// Empty by default: a backend inside one process has nobody to name.
    fn lock_holders(&self, _path: &RelPath) -> io::Result<Vec<u32>> {
        Ok(Vec::new())
    }

    /// What the root lies on. The default is memory of this process, which can be written to.
    fn file_system(&self) -> io::Result<FileSystem> {
        Ok(FileSystem {
            name: "memory".to_owned(),
            is_network: false,
            is_read_only: false,
        })
    }
}

/// A file being read. Reads are positional and may run from several threads.
#[expect(
    clippy::len_without_is_empty,
    reason = "an empty file is nothing special here"
)]
pub trait ReadFile: Send + Sync + fmt::Debug {
    /// The length in bytes now.
    fn len(&self) -> io::Result<u64>;

    /// Fills `out` from `offset`; `UnexpectedEof` where the file ends before.
    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;

    /// The next run of data at or after `offset`: a hint, `None` where there is none to be had.
    ///
    /// `Some((start, end))` with `offset <= start < end`; a hole up to the end of the file is
    /// `Some((len, len))`.
    fn next_data(&self, offset: u64) -> io::Result<Option<(u64, u64)>>;

    /// Bytes of blocks that the file occupies.
    fn allocated_bytes(&self) -> io::Result<u64>;

    /// The descriptor, where the backend has one.
    fn as_fd(&self) -> Option<BorrowedFd<'_>>;
}

/// A file being written. Positions are absolute: there is no cursor.
pub trait WriteFile: Send + fmt::Debug {
    /// Writes all of `bytes` at `offset`.
    fn write_all_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Writes the runs back to back from `offset`, straight from guest memory.
    fn write_runs_at(&mut self, offset: u64, runs: &[HostRun<'_>]) -> io::Result<()>;

    /// Makes `len_bytes` bytes at `offset` those of `source` at `from`, without copying: both files
    /// share the blocks until one of them is written to. The three numbers are multiples of 4096.
    ///
    /// `false`, and nothing is changed, where these two files cannot share blocks: they are on two
    /// file systems, or on one that has no shared blocks, or larger ones.
    fn share(
        &mut self,
        offset: u64,
        source: &dyn ReadFile,
        from: u64,
        len_bytes: u64,
    ) -> io::Result<bool>;

    /// Fills `out` from `offset` with what was written, or is shared.
    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;

    /// Sets the length in bytes; new bytes are zero.
    fn set_len(&mut self, len_bytes: u64) -> io::Result<()>;

    /// Makes the file's bytes and length durable.
    fn sync(&mut self) -> io::Result<()>;

    /// Takes all write permission away: mode 0400.
    fn make_read_only(&mut self) -> io::Result<()>;

    /// Bytes of blocks that the file occupies.
    fn allocated_bytes(&self) -> io::Result<u64>;

    /// Reserves blocks for the first `len_bytes` bytes, which become the length if the file is
    /// shorter: later writes there do not run out of space, and need not wait for each other to
    /// make the file longer.
    ///
    /// Too little space is an error, and may leave a part reserved. A file system that cannot
    /// reserve, or gains nothing by it, sets the length alone.
    fn reserve(&mut self, len_bytes: u64) -> io::Result<()>;

    /// A queue of writes with so many buffers. While there is one, nothing else writes to the file.
    ///
    /// An error with a [`DirectRefused`](crate::DirectRefused) inside says that the file cannot be
    /// written as `mode` demands.
    fn write_queue<'m>(
        &'m mut self,
        mode: QueueMode,
        buffers: usize,
    ) -> io::Result<Box<dyn WriteQueue<'m> + 'm>>;
}

/// A held lock; dropping it releases.
pub trait Lock: Send + Sync + fmt::Debug {
    /// The descriptor that holds the lock, where the backend has one: it can be passed on.
    fn as_fd(&self) -> Option<BorrowedFd<'_>>;
}

/// Who may do what with a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileAccess {
    /// Whose it is to be; `None`: as it is.
    pub owner: Option<u32>,
    /// Which group it is to have; `None`: as it is.
    pub group: Option<u32>,
    /// The permission bits.
    pub mode: u32,
}

/// How a lock is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockMode {
    /// Together with others.
    Shared,
    /// Alone.
    Exclusive,
}

/// An entry of a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its name, one component.
    pub name: String,
    /// What it is.
    pub kind: EntryKind,
}

/// What a name stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link, a device, a socket or a pipe: never opened.
    Other,
}

/// What is known of a file or directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Metadata {
    /// What it is.
    pub kind: EntryKind,
    /// The length in bytes.
    pub len_bytes: u64,
    /// Bytes of blocks that it occupies.
    pub allocated_bytes: u64,
}

#[cfg(all(test, target_os = "linux"))]
mod tests;
