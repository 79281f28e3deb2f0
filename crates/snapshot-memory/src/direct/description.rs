//! The open file description behind a queue, and whether it writes past the page cache.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// A descriptor of the same open file description as the file that is written: what is set here
/// holds for both.
#[derive(Debug)]
pub(super) struct Description(OwnedFd);

impl Description {
    pub(super) fn of(file: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self(file.try_clone_to_owned()?))
    }

    /// Sets whether writes go past the page cache.
    pub(super) fn set_direct(&self, is_direct: bool) -> io::Result<()> {
        let mut flags = OFlag::from_bits_retain(fcntl(&self.0, FcntlArg::F_GETFL)?);
        flags.set(OFlag::O_DIRECT, is_direct);
        fcntl(&self.0, FcntlArg::F_SETFL(flags))?;
        Ok(())
    }
}

impl AsFd for Description {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Description {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
