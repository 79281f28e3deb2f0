//! Waiting for descriptors.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

/// Waits until one of `fds` can be read or has ended, at most for `limit`, or until a signal comes.
/// Gives which of them are so.
pub(super) fn wait(fds: &[BorrowedFd<'_>], limit: Option<Duration>) -> Result<Vec<bool>, Errno> {
    let polled = fds.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN));
    let mut polled: Vec<_> = polled.collect();
    match ppoll(&mut polled, limit.map(TimeSpec::from_duration), None) {
        Ok(_) => {}
        Err(Errno::EINTR) => return Ok(vec![false; fds.len()]),
        Err(errno) => return Err(errno),
    }
    let is_ready = |fd: &PollFd<'_>| fd.any().unwrap_or(false);
    Ok(polled.iter().map(is_ready).collect())
}
