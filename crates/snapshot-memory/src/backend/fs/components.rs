//! Names to descriptors one component at a time, for systems without `openat2`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fstatat};

use crate::backend::{Refusal, RelPath};

/// Opens `path` below `root` without leaving it and without following a link.
///
/// Components are plain names, so that none of them leads up; each is opened from the descriptor
/// of the one before it, and none is opened if it is a link. A directory that is moved meanwhile
/// is still the directory that was opened.
pub(super) fn open_at(
    root: &OwnedFd,
    path: &RelPath,
    flags: OFlag,
    mode: Mode,
) -> io::Result<OwnedFd> {
    let (above, last) = match path.as_str().rsplit_once('/') {
        Some((above, last)) => (above, last),
        None if path.as_str().is_empty() => ("", "."),
        None => ("", path.as_str()),
    };
    let mut dir: Option<OwnedFd> = None;
    for name in above.split('/').filter(|name| !name.is_empty()) {
        let from = dir.as_ref().unwrap_or(root).as_fd();
        dir = Some(open_one(from, name, OFlag::O_DIRECTORY, Mode::empty())?);
    }
    open_one(dir.as_ref().unwrap_or(root).as_fd(), last, flags, mode)
}

fn open_one(dir: BorrowedFd<'_>, name: &str, flags: OFlag, mode: Mode) -> io::Result<OwnedFd> {
    let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    loop {
        match openat(dir, name, flags, mode) {
            Err(Errno::EINTR) => {}
            // A link that is to be a directory is the one or the other to different systems.
            Err(errno @ (Errno::ELOOP | Errno::ENOTDIR)) => {
                return Err(if is_link(dir, name) {
                    Refusal::SymbolicLink.into()
                } else {
                    errno.into()
                });
            }
            result => return Ok(result?),
        }
    }
}

/// Whether the name is a link: for the message only.
fn is_link(dir: BorrowedFd<'_>, name: &str) -> bool {
    fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFLNK)
}

#[cfg(test)]
mod tests;
