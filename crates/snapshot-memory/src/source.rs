//! Guest memory as the engine sees it.

use snapshot_format::{MemoryLayout, PageRange};

use crate::error::MemoryError;
pub use crate::guest_io::HostRun;

/// The memory of a guest, owned by the VMM.
///
/// Implementations are called once per run of pages, never once per page. Pages are image pages:
/// the regions of [`layout`](Self::layout) concatenated.
pub trait GuestMemorySource: Send + Sync {
    /// Which guest physical addresses are memory.
    fn layout(&self) -> &MemoryLayout;

    /// Copies `pages` once, volatile, to `out`, which is exactly as long.
    fn read_pages(&self, pages: PageRange, out: &mut [u8]) -> Result<(), MemoryError>;

    /// The host mapping of a prefix of `pages`, for the kernel to write from; `None` where the
    /// memory is not mapped in this process.
    ///
    /// The prefix holds at least one page, and ends where the mapping is not contiguous.
    fn host_run(&self, pages: PageRange) -> Option<HostRun<'_>>;
}

/// Whether anyone may write guest memory while it is captured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stability {
    /// Every vCPU and device is stopped: memory may be written to disk straight from where it is,
    /// and digested apart. A write in between is found as corruption when the snapshot is read.
    Paused,
    /// Someone may write: each page is copied once, and exactly that copy is digested and written.
    Running,
}
