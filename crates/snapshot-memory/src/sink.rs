//! Where a snapshot goes: the trait that a hypervisor bridge writes to.

use std::num::NonZeroU64;

use snapshot_format::{DataLayout, MemoryLayout, SectionPayload, SnapshotId, SnapshotRef};

use crate::capture::{Cancel, Engine};
use crate::dirty::DirtyBitmap;
use crate::error::{PublishError, SinkError};
use crate::source::{GuestMemorySource, Stability};

/// Which pages a snapshot takes.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Pages<'a> {
    /// Every page.
    Full,
    /// The pages written since `base`; all others are inherited from it.
    Since {
        /// The snapshot that the bits are relative to.
        base: SnapshotRef,
        /// One bit a page of the image.
        dirty: &'a DirtyBitmap,
    },
}

impl<'a> Pages<'a> {
    /// The same base with other pages, where there is one and they are given.
    pub(crate) fn with_dirty(self, dirty: Option<&'a DirtyBitmap>) -> Self {
        match (self, dirty) {
            (Self::Since { base, .. }, Some(dirty)) => Self::Since { base, dirty },
            (pages, _) => pages,
        }
    }

    /// The pages written since the base; `None` where every page is taken.
    #[must_use]
    pub fn dirty(self) -> Option<&'a DirtyBitmap> {
        match self {
            Self::Full => None,
            Self::Since { dirty, .. } => Some(dirty),
        }
    }
}

/// What is known of the memory of a snapshot before the machine is stopped.
#[derive(Clone, Copy, Debug)]
pub struct MemoryPlan<'a> {
    /// How it is laid out.
    pub layout: &'a MemoryLayout,
    /// What the pages will be relative to; `None`: every page comes.
    pub base: Option<SnapshotRef>,
    /// Bytes of pages that there must be room for. A snapshot may come to need more.
    pub bytes: u64,
    /// Breaks the writing of memory off, as the flag of the sink's own
    /// [`CaptureControl`](crate::CaptureControl) does.
    pub cancel: &'a Cancel,
}

/// A place that takes snapshots: a store, or a plain directory.
pub trait SnapshotSink: Send {
    /// Stages an empty snapshot. Nothing is visible before it is published; dropping it on the
    /// way discards it.
    fn begin(&mut self) -> Result<Box<dyn StagedSink>, SinkError>;
}

/// A snapshot being written.
pub trait StagedSink: Send {
    /// The identity that it will be published under.
    fn id(&self) -> SnapshotId;

    /// Prepares for memory before the machine is stopped, so that no pause is spent on what can be
    /// known before it: refuses what there is no room for, and pages that are relative to
    /// something else than the parent; reads what a diff needs of the parent.
    fn prepare(&mut self, plan: MemoryPlan<'_>) -> Result<(), SinkError>;

    /// Adds a section of machine state.
    fn section(&mut self, section: SectionPayload) -> Result<(), SinkError>;

    /// Writes guest memory, once. `stability` says whether anyone may write it meanwhile.
    fn memory(
        &mut self,
        source: &dyn GuestMemorySource,
        pages: Pages<'_>,
        stability: Stability,
    ) -> Result<MemoryStats, SinkError>;

    /// Begins to write guest memory, once, while the machine runs: instead of
    /// [`memory`](Self::memory), and after [`prepare`](Self::prepare).
    fn live(&mut self, plan: LivePlan<'_>) -> Result<Box<dyn LiveMemory + '_>, SinkError>;

    /// Writes what names all the rest and makes everything durable.
    fn seal(self: Box<Self>) -> Result<Box<dyn SealedSink>, SinkError>;
}

/// What is known of a live snapshot before its first page is read.
#[derive(Clone, Copy, Debug)]
pub struct LivePlan<'a> {
    /// How the memory is laid out.
    pub layout: &'a MemoryLayout,
    /// What the pages are relative to; `None`: every page comes.
    pub base: Option<SnapshotRef>,
    /// Bytes that can be set aside in the pause. The memory for them is got now.
    pub aside_bytes: u64,
    /// At most so many bytes a second go to the data file while the machine runs, on average from
    /// now; `None`: as [`CaptureControl`](crate::CaptureControl) says.
    pub bytes_per_second: Option<NonZeroU64>,
}

/// Memory that is written while its machine runs.
///
/// Every page is given as often as it was written, in rounds; what a later call gives of a page
/// counts. A page that no call gives is inherited from the base, so that without a base the calls
/// together give every page. Dropping it discards what was written.
pub trait LiveMemory: Send {
    /// Copies pages once, volatile, digests exactly these copies and writes them: a round while
    /// the machine runs, at the rate of the plan; or, where `stability` says that it is stopped,
    /// as fast as that goes.
    fn round(
        &mut self,
        source: &dyn GuestMemorySource,
        dirty: &DirtyBitmap,
        stability: Stability,
    ) -> Result<LiveRound, SinkError>;

    /// Copies pages, with the machine stopped, to memory that is there already, and does nothing
    /// else: they are digested and written by [`finish`](Self::finish). Gives how many. To be
    /// called once that succeeds.
    ///
    /// Where there is no room for all of them this is [`SinkError::AsideFull`], and none is kept.
    fn set_aside(
        &mut self,
        source: &dyn GuestMemorySource,
        dirty: &DirtyBitmap,
    ) -> Result<u64, SinkError>;

    /// Writes what was set aside and the page map. The machine may run.
    fn finish(self: Box<Self>) -> Result<MemoryStats, SinkError>;
}

/// What one round of a live snapshot wrote.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LiveRound {
    /// Pages that were read.
    pub pages: u64,
    /// Bytes that were given to the data file.
    pub written_bytes: u64,
    /// Nanoseconds spent on it.
    pub ns: u64,
}

/// A snapshot that is complete and durable, and not yet visible.
pub trait SealedSink: Send {
    /// Makes it visible, by one rename that replaces nothing.
    fn publish(self: Box<Self>) -> Result<Published, PublishError>;
}

/// A snapshot that is visible and durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Published {
    /// What a later diff names as its parent.
    pub snapshot: SnapshotRef,
}

/// What writing memory did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MemoryStats {
    /// Pages whose bytes were stored.
    pub present: u64,
    /// Pages recorded as zero.
    pub zero: u64,
    /// Pages inherited from the parent.
    pub inherited: u64,
    /// Bytes of blocks that the data file occupies.
    pub allocated_bytes: u64,
    /// Calls that wrote data.
    pub write_calls: u64,
    /// Nanoseconds spent writing, without syncs.
    pub write_ns: u64,
    /// How the stored pages lie in the data file; `None` if no memory was written.
    pub layout: Option<DataLayout>,
    /// What wrote them.
    pub engine: Engine,
}
