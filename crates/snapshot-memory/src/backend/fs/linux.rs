//! What Linux does in its own way.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{
    FallocateFlags, OFlag, OpenHow, RenameFlags, ResolveFlag, fallocate, openat2, renameat2,
};
use nix::sys::stat::{FileStat, Mode};
use nix::sys::statfs::{BTRFS_SUPER_MAGIC, fstatfs};

use super::holders;
pub(super) use super::share::share;
use crate::backend::{FileSystem, Refusal, RelPath};

/// How a directory is opened only to name entries in it.
pub(super) const NAMING: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY);

/// Opens `path` below `root` without leaving it and without following a link.
pub(super) fn open_at(
    root: &OwnedFd,
    path: &RelPath,
    flags: OFlag,
    mode: Mode,
) -> io::Result<OwnedFd> {
    let resolve = ResolveFlag::RESOLVE_BENEATH
        | ResolveFlag::RESOLVE_NO_SYMLINKS
        | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .mode(mode)
        .resolve(resolve);
    let name = match path.as_str() {
        "" => ".",
        name => name,
    };
    loop {
        match openat2(root, name, how) {
            // EAGAIN: a rename raced with the resolution.
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(Errno::ELOOP) => return Err(Refusal::SymbolicLink.into()),
            result => return Ok(result?),
        }
    }
}

/// Renames an entry of one directory to an entry of another that must not exist.
pub(super) fn rename_noreplace(
    from_dir: &OwnedFd,
    from: &str,
    to_dir: &OwnedFd,
    to: &str,
) -> io::Result<()> {
    let flags = RenameFlags::RENAME_NOREPLACE;
    Ok(renameat2(from_dir, from, to_dir, to, flags)?)
}

/// Renames an entry of one directory over an entry of another.
pub(super) fn rename_replace(
    from_dir: &OwnedFd,
    from: &str,
    to_dir: &OwnedFd,
    to: &str,
) -> io::Result<()> {
    Ok(renameat2(from_dir, from, to_dir, to, RenameFlags::empty())?)
}

/// Reserves blocks for the first `len` bytes, not none; whether that was done.
pub(super) fn allocate(file: &File, len: i64) -> io::Result<bool> {
    // Direct writes to a checksummed file of btrfs go through the cache, which finds blocks when
    // it writes back: reserved ones would gain nothing, and are never compressed.
    if fstatfs(file)?.filesystem_type() == BTRFS_SUPER_MAGIC {
        return Ok(false);
    }
    loop {
        match fallocate(file, FallocateFlags::empty(), 0, len) {
            Ok(()) => return Ok(true),
            Err(Errno::EINTR) => {}
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// The processes that hold a lock of the file.
pub(super) fn lock_holders(file: &FileStat) -> io::Result<Vec<u32>> {
    holders::of(file.st_dev, file.st_ino)
}

/// The number of the device that a file lies on.
pub(super) const fn device(file: &FileStat) -> u64 {
    file.st_dev
}

/// What `root` lies on.
pub(super) fn file_system(root: &OwnedFd, is_read_only: bool) -> io::Result<FileSystem> {
    let magic = fstatfs(root.as_fd())?.filesystem_type().0;
    Ok(FileSystem::from_magic(magic.cast_unsigned(), is_read_only))
}
