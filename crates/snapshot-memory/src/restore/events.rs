//! Telling a VMM of lost memory, by a descriptor that it can wait for.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::MemoryFailure;

/// Failures that are kept until somebody takes them. More of them say nothing new: the guest is
/// lost with the first.
const KEPT: usize = 1024;

/// What was lost of the memory of one guest.
///
/// The descriptor is readable while there is something to take, so that epoll loops can wait for
/// it with all else.
#[derive(Debug)]
pub struct MemoryEvents {
    shared: Arc<Shared>,
}

/// Reports lost memory; clones report to the same [`MemoryEvents`].
#[derive(Clone, Debug)]
pub struct MemoryReporter {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    bell: EventFd,
    failures: Mutex<VecDeque<MemoryFailure>>,
}

impl MemoryEvents {
    /// A queue without events, and what reports to it.
    pub fn new() -> io::Result<(Self, MemoryReporter)> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let shared = Arc::new(Shared {
            bell: EventFd::from_flags(flags)?,
            failures: Mutex::default(),
        });
        let reporter = MemoryReporter {
            shared: Arc::clone(&shared),
        };
        Ok((Self { shared }, reporter))
    }

    /// All that was reported and not taken yet, oldest first.
    #[must_use]
    pub fn take(&self) -> Vec<MemoryFailure> {
        let mut failures = self.shared.lock();
        match self.shared.bell.read() {
            // Nothing was reported since the last time: it does not ring.
            Ok(_) | Err(Errno::EAGAIN) => {}
            Err(error) => tracing::warn!(%error, "the bell of memory events does not go quiet"),
        }
        failures.drain(..).collect()
    }
}

impl AsFd for MemoryEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.bell.as_fd()
    }
}

impl MemoryReporter {
    /// Reports lost pages.
    pub fn report(&self, failure: MemoryFailure) {
        tracing::error!(
            error = &failure as &dyn std::error::Error,
            "guest memory is lost"
        );
        let mut failures = self.shared.lock();
        if failures.len() < KEPT {
            failures.push_back(failure);
        }
        if let Err(error) = self.shared.bell.write(1) {
            tracing::warn!(%error, "the bell of memory events does not ring");
        }
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<MemoryFailure>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
