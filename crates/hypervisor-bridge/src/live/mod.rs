//! Taking a snapshot while the machine runs: what to hand in, and what comes back.

mod options;
mod report;
mod rounds;
mod sequence;

use snapshot_memory::{Cancel, SnapshotSink};

pub use options::{Behind, LiveOptions, Overflow, Slowed, Throttle, WhenBehind};
pub use report::{LiveReport, RoundReport};
pub use sequence::live_snapshot;

use crate::snapshot::Selection;

/// Where a live snapshot goes, how long it may take, and when to give up.
#[expect(missing_debug_implementations, reason = "the sink is the caller's")]
pub struct LiveRequest<'r, 'h> {
    /// Where it goes.
    pub sink: &'r mut dyn SnapshotSink,
    /// Which pages it takes; they must be tracked.
    pub selection: Selection<'r>,
    /// When to give up: looked at between steps, and while memory is written.
    pub cancel: &'r Cancel,
    /// Bytes of pages that there must be room for; as for
    /// [`SnapshotRequest::room_bytes`](crate::SnapshotRequest::room_bytes).
    pub room_bytes: Option<u64>,
    /// Rounds, rates and choices; `'h` is how long a hook of theirs lives.
    pub options: LiveOptions<'h>,
}

#[cfg(test)]
mod tests;
