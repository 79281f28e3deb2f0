//! Telling a VMM of lost memory, by a descriptor that it can wait for.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError, Weak};

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
    noted: Mutex<Vec<Weak<dyn NotedFailures>>>,
}

/// Keeps failures that were found where nothing may be locked or allocated, until they are taken.
pub(crate) trait NotedFailures: fmt::Debug + Send + Sync {
    /// Moves them to `into`.
    fn drain(&self, into: &mut Vec<MemoryFailure>);
}

impl MemoryEvents {
    /// A queue without events, and what reports to it.
    pub fn new() -> io::Result<(Self, MemoryReporter)> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let shared = Arc::new(Shared {
            bell: EventFd::from_flags(flags)?,
            failures: Mutex::default(),
            noted: Mutex::default(),
        });
        let reporter = MemoryReporter {
            shared: Arc::clone(&shared),
        };
        Ok((Self { shared }, reporter))
    }

    /// All that was reported and not taken yet, oldest first.
    #[must_use]
    pub fn take(&self) -> Vec<MemoryFailure> {
        let noted = self.shared.noted();
        match self.shared.bell.read() {
            // Nothing was reported since the last time: it does not ring.
            Ok(_) | Err(Errno::EAGAIN) => {}
            Err(error) => tracing::warn!(%error, "the bell of memory events does not go quiet"),
        }
        let mut taken: Vec<_> = self.shared.lock().drain(..).collect();
        for noted in noted {
            noted.drain(&mut taken);
        }
        taken
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

impl MemoryReporter {
    /// Has what is noted elsewhere taken with what is reported, for as long as `noted` lives.
    pub(crate) fn attach(&self, noted: &Arc<dyn NotedFailures>) {
        let mut all = self
            .shared
            .noted
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        all.retain(|known| known.strong_count() > 0);
        all.push(Arc::downgrade(noted));
    }

    /// Says that something has been noted. A signal handler may call this.
    pub(crate) fn ring(&self) {
        // A bell that cannot ring louder rings already.
        let _ = self.shared.bell.write(1);
    }
}

impl Shared {
    fn noted(&self) -> Vec<Arc<dyn NotedFailures>> {
        let noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted.iter().filter_map(Weak::upgrade).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<MemoryFailure>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
