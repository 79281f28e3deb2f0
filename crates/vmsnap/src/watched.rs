//! Guest memory that tells how far the work has come, and that stops it on a signal.

use snapshot_format::{MemoryLayout, PageRange};
use snapshot_memory::{GuestMemorySource, HostRun, MemoryError};

use crate::interrupt::Interrupt;
use crate::progress::Progress;

/// Guest memory that is watched while it is read.
pub(crate) struct WatchedMemory<'a> {
    pub(crate) memory: &'a dyn GuestMemorySource,
    pub(crate) progress: &'a Progress,
    pub(crate) interrupt: &'a Interrupt,
}

impl GuestMemorySource for WatchedMemory<'_> {
    fn layout(&self) -> &MemoryLayout {
        self.memory.layout()
    }

    fn read_pages(&self, pages: PageRange, out: &mut [u8]) -> Result<(), MemoryError> {
        self.interrupt.check().map_err(|source| MemoryError::Read {
            range: pages,
            source,
        })?;
        self.memory.read_pages(pages, out)?;
        self.progress.add(out.len() as u64);
        Ok(())
    }

    fn host_run(&self, pages: PageRange) -> Option<HostRun<'_>> {
        self.memory.host_run(pages)
    }
}
