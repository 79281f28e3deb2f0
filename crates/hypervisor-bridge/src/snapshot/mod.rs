//! Taking a snapshot: what to hand in, what comes back, and the sequence.

mod failed;
mod guards;
mod pause;
mod sequence;

use snapshot_memory::{
    ConsumerId, DirtyTracker, GuestMemorySource, MemoryStats, Published, SnapshotSink,
};

pub(crate) use failed::{dirty, go_on, refused};
pub(crate) use pause::{Lapse, pause};
pub use sequence::snapshot;
pub(crate) use sequence::{Begun, begin, publish};

use crate::breakdown::PauseBreakdown;
use crate::machine::{Devices, StateCapture, VcpuStop};
use crate::metrics::Metrics;
use snapshot_memory::Cancel;

/// The machine to capture.
#[expect(missing_debug_implementations, reason = "the parts are the caller's")]
pub struct Machine<'m> {
    /// Its vCPUs.
    pub vcpus: &'m mut dyn VcpuStop,
    /// Its devices.
    pub devices: &'m mut dyn Devices,
    /// What the hypervisor keeps of it.
    pub state: &'m mut dyn StateCapture,
    /// Its memory.
    pub memory: &'m dyn GuestMemorySource,
}

/// Which pages to take.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Selection<'t> {
    /// All of them. Written pages are not tracked.
    Full,
    /// All of them, and later diffs of this consumer are relative to the new snapshot.
    FullTracked {
        /// Who keeps the dirty bits.
        tracker: &'t DirtyTracker,
        /// For whom.
        consumer: ConsumerId,
    },
    /// The pages written since the consumer's base, which the sink has as its parent.
    Diff {
        /// Who keeps the dirty bits.
        tracker: &'t DirtyTracker,
        /// For whom.
        consumer: ConsumerId,
    },
}

/// What a snapshot did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Captured {
    /// What a later diff names as its parent.
    pub published: Published,
    /// What was written.
    pub memory: MemoryStats,
    /// Where the time went.
    pub time: PauseBreakdown,
    /// All that and more in one value that can be written as JSON.
    pub metrics: Metrics,
}

/// Where a snapshot goes, and when to give up.
#[expect(missing_debug_implementations, reason = "the sink is the caller's")]
pub struct SnapshotRequest<'r> {
    /// Where it goes.
    pub sink: &'r mut dyn SnapshotSink,
    /// Which pages it takes.
    pub selection: Selection<'r>,
    /// When to give up: looked at between steps, and while memory is written.
    pub cancel: &'r Cancel,
    /// Bytes of pages that there must be room for before the machine is stopped; 0: none.
    ///
    /// `None` asks for what is known while the machine runs. For a full snapshot that is all of
    /// memory, as its zero pages are not known. For a diff it is the pages that were harvested
    /// before and are in no durable snapshot: what was written since the last harvest comes to
    /// light in the pause, so that a disk that is nearly full may still cost one.
    pub room_bytes: Option<u64>,
}

impl<'t> Selection<'t> {
    pub(crate) fn tracking(self) -> Option<(&'t DirtyTracker, ConsumerId)> {
        match self {
            Self::Full => None,
            Self::FullTracked { tracker, consumer } | Self::Diff { tracker, consumer } => {
                Some((tracker, consumer))
            }
        }
    }
}

#[cfg(test)]
mod tests;
