//! How a page handler goes about it.

use std::time::Duration;

use crate::serve::ServeOptions;

/// How a [`PageHandler`](super::PageHandler) serves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HandlerOptions {
    pub(super) serve: ServeOptions,
    pub(super) finishes: bool,
    pub(super) machines: usize,
    pub(super) patience: Duration,
    pub(super) once: bool,
}

impl HandlerOptions {
    /// Serves up to 64 VMs at once, each as `serve` says, and gives one that does not hand its
    /// memory over 5 seconds.
    ///
    /// Each VM takes a thread that listens to it and one that serves, beyond those of `serve`,
    /// which may be none.
    #[must_use]
    pub fn new(serve: ServeOptions) -> Self {
        Self {
            serve,
            finishes: false,
            machines: 64,
            patience: Duration::from_secs(5),
            once: false,
        }
    }

    /// The same, whether a VM is left alone once all of its pages are in place; `serve` has a
    /// background that fills them.
    ///
    /// Not for a VMM that tracks writes by the same userfaultfd: its registration ends.
    #[must_use]
    pub fn finishes(self, finishes: bool) -> Self {
        Self { finishes, ..self }
    }

    /// The same, with at most so many VMs at once, at least one. Others wait until they are
    /// accepted.
    #[must_use]
    pub fn machines(self, machines: usize) -> Self {
        Self {
            machines: machines.max(1),
            ..self
        }
    }

    /// The same, with another time for the handshake.
    #[must_use]
    pub fn patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// The same, whether the handler ends with the first VM that it served.
    #[must_use]
    pub fn once(self, once: bool) -> Self {
        Self { once, ..self }
    }
}
