//! What macOS does in its own way.
//!
//! Two more differences need no code here: `File::sync_all` is `F_FULLFSYNC`, which alone makes a
//! Mac's disk write its cache, and `flock` is the call behind locks on both systems.

// UNSAFETY: renameatx_np, which the nix crate does not have.
#![expect(unsafe_code, reason = "calls renameatx_np")]

use std::ffi::{CString, c_uint};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::MntFlags;
use nix::sys::stat::FileStat;
use nix::sys::statfs::fstatfs;

pub(super) use super::components::open_at;
use crate::backend::FileSystem;

/// How a directory is opened only to name entries in it.
pub(super) const NAMING: OFlag = OFlag::O_DIRECTORY;

/// Renames an entry of one directory to an entry of another that must not exist.
///
/// A file system that cannot say so in one step (`ENOTSUP`: neither APFS nor HFS+) is refused.
pub(super) fn rename_noreplace(
    from_dir: &OwnedFd,
    from: &str,
    to_dir: &OwnedFd,
    to: &str,
) -> io::Result<()> {
    rename(from_dir, from, to_dir, to, libc::RENAME_EXCL)
}

/// Renames an entry of one directory over an entry of another.
pub(super) fn rename_replace(
    from_dir: &OwnedFd,
    from: &str,
    to_dir: &OwnedFd,
    to: &str,
) -> io::Result<()> {
    rename(from_dir, from, to_dir, to, 0)
}

fn rename(
    from_dir: &OwnedFd,
    from: &str,
    to_dir: &OwnedFd,
    to: &str,
    flags: c_uint,
) -> io::Result<()> {
    let (from, to) = (CString::new(from)?, CString::new(to)?);
    // SAFETY:
    // - both names end with a NUL and live during the call;
    // - the descriptors are borrowed, so they are open.
    let renamed = unsafe {
        libc::renameatx_np(
            from_dir.as_raw_fd(),
            from.as_ptr(),
            to_dir.as_raw_fd(),
            to.as_ptr(),
            flags,
        )
    };
    Errno::result(renamed)?;
    Ok(())
}

/// Reserves blocks; whether that was done. Never here: it serves writes past the page cache, of
/// which there are none on this system.
#[expect(
    clippy::unnecessary_wraps,
    reason = "the signature of the other systems"
)]
pub(super) fn allocate(_file: &File, _len: i64) -> io::Result<bool> {
    Ok(false)
}

/// Files share blocks as whole files only here: nothing is shared.
#[expect(clippy::unnecessary_wraps, reason = "as it is on Linux")]
pub(super) fn share(_: &File, _: u64, _: BorrowedFd<'_>, _: u64, _: u64) -> io::Result<bool> {
    Ok(false)
}

/// The processes that hold a lock of the file: this system does not tell.
#[expect(
    clippy::unnecessary_wraps,
    reason = "the signature of the other systems"
)]
pub(super) fn lock_holders(_file: &FileStat) -> io::Result<Vec<u32>> {
    Ok(Vec::new())
}

/// The number of the device that a file lies on.
pub(super) fn device(file: &FileStat) -> u64 {
    u64::from(file.st_dev.unsigned_abs())
}

/// What `root` lies on.
pub(super) fn file_system(root: &OwnedFd, is_read_only: bool) -> io::Result<FileSystem> {
    let found = fstatfs(root)?;
    Ok(FileSystem {
        name: found.filesystem_type_name().to_owned(),
        is_network: !found.flags().contains(MntFlags::MNT_LOCAL),
        is_read_only,
    })
}
