//! What a page handler tells whoever runs it.

use super::HandshakeError;
use crate::restore::MemoryFailure;
use crate::serve::{FaultTrace, ServeError, ServeStats};

/// Something happened to a VM, which has a number that no other VM of this handler has.
#[derive(Debug)]
#[non_exhaustive]
pub enum HandlerEvent {
    /// It handed its memory over.
    Began {
        /// The VM.
        machine: u64,
        /// Its process, where it can be seen from here.
        pid: Option<i32>,
        /// Pages that are served.
        pages: u64,
    },
    /// It did not, or not in a way that can be served; the connection was closed.
    Refused {
        /// The VM.
        machine: u64,
        /// Its process, where it can be seen from here.
        pid: Option<i32>,
        /// Why.
        error: ServiceRefused,
    },
    /// Pages could not be given to it. It has been told.
    Lost {
        /// The VM.
        machine: u64,
        /// Which pages, and why.
        failure: MemoryFailure,
    },
    /// It is not served any more.
    Ended {
        /// The VM.
        machine: u64,
        /// Why.
        end: ServiceEnd,
        /// What was done.
        stats: ServeStats,
        /// What it needed, in order.
        trace: FaultTrace,
    },
}

/// Why a VM is not served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceRefused {
    /// Its message was refused.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// Its memory cannot be served.
    #[error(transparent)]
    Serve(#[from] ServeError),
}

/// Why a VM is not served any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ServiceEnd {
    /// Its process has ended.
    Gone,
    /// It does not use the memory any more.
    Bye,
    /// All of its pages are in place.
    Complete,
    /// The handler was stopped: whoever needs a page waits for ever.
    Stopped,
}

impl ServiceEnd {
    /// The name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Bye => "bye",
            Self::Complete => "complete",
            Self::Stopped => "stopped",
        }
    }
}
