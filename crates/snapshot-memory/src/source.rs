//! Guest memory as the engine sees it.

use std::marker::PhantomData;

use snapshot_format::{MemoryLayout, PageRange};

use crate::error::MemoryError;

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

/// A run of guest memory in this process's address space, to be handed to the kernel.
///
/// It gives out no reference: vCPUs and devices may write the memory at any time.
#[derive(Clone, Copy, Debug)]
pub struct HostRun<'a> {
    address: *const u8,
    len_bytes: usize,
    mapping: PhantomData<&'a [u8]>,
}

impl HostRun<'_> {
    /// The first byte.
    #[must_use]
    pub fn address(&self) -> *const u8 {
        self.address
    }

    /// The length in bytes; a multiple of the page.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.len_bytes
    }
}
