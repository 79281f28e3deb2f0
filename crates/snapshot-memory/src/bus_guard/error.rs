//! Why mappings cannot be watched.

use std::io;
use std::ops::Range;

/// Watching mapped files failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BusGuardError {
    /// A call failed.
    #[error("{call}")]
    System {
        /// The call.
        call: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Somebody else took the signal after the guard did, and may not hand it on.
    #[error("the handler of SIGBUS was replaced; install the guard last, and once")]
    Replaced,
    /// A run is empty, not made of whole pages, ends behind the last address, or overlaps another.
    #[error("addresses {:#x}..{:#x} are no run of pages, or overlap another", .0.start, .0.end)]
    NoRun(Range<u64>),
}

impl BusGuardError {
    pub(super) fn system(call: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { call, source }
    }
}
