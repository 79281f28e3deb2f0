//! Names to descriptors, without leaving the root and without following a link.

use std::io;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;

use crate::backend::{Refusal, RelPath};

/// Opens `path` below `root`.
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

/// Opens the directory that holds `path`, to name entries in.
pub(super) fn open_parent(root: &OwnedFd, path: &RelPath) -> io::Result<OwnedFd> {
    let parent = path.parent().ok_or(Errno::EBUSY)?;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    open_at(root, &parent, flags, Mode::empty())
}
