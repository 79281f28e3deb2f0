//! What a live snapshot did.

use serde::Serialize;

/// What a live snapshot did while its machine ran, and what was left for the pause.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct LiveReport {
    /// Each round, in order.
    pub rounds: Vec<RoundReport>,
    /// Pages that were copied aside in the pause.
    pub aside_pages: u64,
    /// Pages that were written in the pause, because there was no room aside.
    pub paused_pages: u64,
    /// Whether the guest wrote faster than rounds did.
    pub is_behind: bool,
    /// How often the guest was slowed down.
    pub slowed: u32,
    /// Pauses that were broken off because the last pages were too many.
    pub retries: u32,
    /// How long those were, state capture included.
    pub retries_ns: u64,
}

/// One round.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct RoundReport {
    /// Pages that were read.
    pub pages: u64,
    /// Bytes that were written: zero pages are not.
    pub written_bytes: u64,
    /// Finding the pages.
    pub harvest_ns: u64,
    /// Reading and writing them.
    pub write_ns: u64,
}
