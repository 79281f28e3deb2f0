//! Guest memory that tells how far the work has come, and that is read at a rate.

use std::sync::{Mutex, PoisonError};

use snapshot_format::{MemoryLayout, PageRange};
use snapshot_memory::{GuestMemorySource, HostRun, MemoryError, Pace};

use crate::progress::Progress;

/// Guest memory that is watched while it is read.
pub(crate) struct WatchedMemory<'a> {
    memory: &'a dyn GuestMemorySource,
    progress: &'a Progress,
    pace: Mutex<Pace>,
}

impl<'a> WatchedMemory<'a> {
    /// `memory`, whose bytes are counted by `progress` and spent from `pace`.
    pub(crate) fn new(
        memory: &'a dyn GuestMemorySource,
        progress: &'a Progress,
        pace: Pace,
    ) -> Self {
        Self {
            memory,
            progress,
            pace: Mutex::new(pace),
        }
    }
}

impl GuestMemorySource for WatchedMemory<'_> {
    fn layout(&self) -> &MemoryLayout {
        self.memory.layout()
    }

    fn read_pages(&self, pages: PageRange, out: &mut [u8]) -> Result<(), MemoryError> {
        // A panic elsewhere leaves plain numbers behind, which are as good as before.
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        // It fails only once the user asked for the end.
        pace.spend(out.len() as u64)
            .map_err(|error| MemoryError::Read {
                range: pages,
                source: std::io::Error::new(std::io::ErrorKind::Interrupted, error),
            })?;
        drop(pace);
        self.memory.read_pages(pages, out)?;
        self.progress.add(out.len() as u64);
        Ok(())
    }

    fn host_run(&self, pages: PageRange) -> Option<HostRun<'_>> {
        self.memory.host_run(pages)
    }
}
