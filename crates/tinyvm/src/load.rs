//! Putting an image back into guest memory.

use std::sync::Arc;

use hypervisor_bridge::{MemoryRestore, StepError};
use snapshot_format::{PAGE_BYTES, PageRange};
use snapshot_memory::{GuestMemorySource, MappedMemory, MappingOptions};

use crate::config::GuestConfig;
use crate::error::GuestError;

/// Pages that are read at a time: 1 MiB.
const CHUNK_PAGES: u64 = 256;

/// Reads pages of an image, verified, into a buffer of exactly their length.
pub type PageReader<'a> = dyn FnMut(PageRange, &mut [u8]) -> Result<(), StepError> + Send + 'a;

/// Copies an image to fresh memory.
pub(crate) struct ImageLoader<'a, 'r> {
    pub(crate) memory: &'a MappedMemory,
    pub(crate) read: &'a mut PageReader<'r>,
}

impl MemoryRestore for ImageLoader<'_, '_> {
    fn restore(&mut self) -> Result<(), StepError> {
        let page_count = self.memory.layout().page_count();
        let mut buffer = vec![0; usize::try_from(CHUNK_PAGES * PAGE_BYTES)?];
        let mut first = 0;
        while first < page_count {
            let count = CHUNK_PAGES.min(page_count - first);
            let len = usize::try_from(count * PAGE_BYTES)?;
            let chunk = buffer.get_mut(..len).unwrap_or_default();
            (self.read)(PageRange::new(first, count), chunk)?;
            for (page, bytes) in (first..).zip(chunk.chunks(usize::try_from(PAGE_BYTES)?)) {
                // Fresh memory is zero: a page that stays untouched costs nothing.
                if bytes.iter().any(|&byte| byte != 0) {
                    self.memory.write(page * PAGE_BYTES, bytes)?;
                }
            }
            first += count;
        }
        Ok(())
    }
}

/// Fresh memory for a guest.
pub(crate) fn map(config: &GuestConfig) -> Result<Arc<MappedMemory>, GuestError> {
    let memory = MappedMemory::new(config.layout()?, MappingOptions::default());
    let memory = memory.map_err(|source| GuestError::System {
        call: "map guest memory",
        source,
    })?;
    Ok(Arc::new(memory))
}
