//! Waking threads that sleep until there is a fault.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;

/// Wakes every thread that waits, once for each ring or for several.
#[derive(Debug)]
pub(super) struct Bell(EventFd);

/// What a thread that waited is to look at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Woken {
    /// There may be messages, or the time is up.
    Look,
    /// The bell rang, and does so until it is silenced.
    Rung,
    /// The other end of the userfaultfd is no more.
    Hangup,
}

impl Bell {
    pub(super) fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self(EventFd::from_flags(flags)?))
    }

    pub(super) fn ring(&self) {
        // Full is as good as rung.
        if let Err(errno) = self.0.write(1)
            && errno != Errno::EAGAIN
        {
            tracing::warn!(%errno, "the bell of a page server does not ring");
        }
    }

    /// Ends the ringing; another thread may have done so already.
    pub(super) fn silence(&self) {
        match self.0.read() {
            Ok(_) | Err(Errno::EAGAIN) => {}
            Err(errno) => tracing::warn!(%errno, "the bell of a page server is not silent"),
        }
    }

    /// Waits until `fd` can be read, somebody rings, or `limit` has passed, if there is one.
    pub(super) fn wait(&self, fd: BorrowedFd<'_>, limit: Option<Duration>) -> Result<Woken, Errno> {
        let mut fds = [
            PollFd::new(fd, PollFlags::POLLIN),
            PollFd::new(self.0.as_fd(), PollFlags::POLLIN),
        ];
        match ppoll(&mut fds, limit.map(TimeSpec::from), None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
        let [fd, bell] = fds.map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        let is_over = fd.intersects(PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL);
        Ok(match is_over {
            true => Woken::Hangup,
            false if bell.contains(PollFlags::POLLIN) => Woken::Rung,
            false => Woken::Look,
        })
    }
}
