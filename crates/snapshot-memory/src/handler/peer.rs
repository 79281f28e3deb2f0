//! The process at the other end of a connection.

// UNSAFETY: the call pidfd_open, which is given a number and no memory.
#![expect(unsafe_code, reason = "opens a descriptor of a process")]

use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::sys::socket::{getsockopt, sockopt};

/// Whoever connected.
#[derive(Debug)]
pub(super) struct Peer {
    /// Its number here; `None`: it is of a namespace that this process does not see.
    pub(super) pid: Option<i32>,
    end: Option<OwnedFd>,
}

impl Peer {
    pub(super) fn of(stream: &UnixStream) -> Self {
        let credentials = getsockopt(stream, sockopt::PeerCredentials);
        let pid = credentials.ok().map(|found| found.pid());
        let pid = pid.filter(|pid| *pid > 0);
        // Since Linux 6.5 the kernel gives the very process that connected. Before, its number may
        // have been given to another by now, which only lets its server live longer.
        let end = getsockopt(stream, sockopt::PeerPidfd).ok();
        let end = end.or_else(|| pidfd_open(pid?).ok());
        if end.is_none() {
            tracing::warn!("the end of the VMM will be noticed by its next fault only");
        }
        Self { pid, end }
    }

    /// Readable when the process has ended.
    pub(super) fn end(&self) -> Option<BorrowedFd<'_>> {
        self.end.as_ref().map(AsFd::as_fd)
    }
}

fn pidfd_open(pid: i32) -> nix::Result<OwnedFd> {
    // SAFETY: takes two numbers and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = Errno::result(fd)?;
    let fd = i32::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_process_is_known_and_has_not_ended() {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

        let (ours, _theirs) = UnixStream::pair().unwrap();
        let peer = Peer::of(&ours);
        assert_eq!(peer.pid, i32::try_from(std::process::id()).ok());
        let by_number = pidfd_open(peer.pid.unwrap()).unwrap();
        for end in [peer.end().unwrap(), by_number.as_fd()] {
            let mut fds = [PollFd::new(end, PollFlags::POLLIN)];
            assert_eq!(poll(&mut fds, PollTimeout::ZERO), Ok(0));
        }
        pidfd_open(i32::MAX).unwrap_err();
    }
}
