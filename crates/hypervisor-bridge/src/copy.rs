//! Putting guest memory in place by copying it.

use snapshot_format::{PAGE_BYTES, PageRange};
use snapshot_memory::{
    CheckedBy, GuestMemorySource, MappedMemory, MemoryReport, RestoreMethod, Verification,
};

use crate::error::StepError;
use crate::target::MemoryRestore;

/// Pages that are read at a time: 1 MiB.
const CHUNK_PAGES: u64 = 256;

/// Reads pages of an image, verified, into a buffer of exactly their length.
pub type PageReader<'r> = dyn FnMut(PageRange, &mut [u8]) -> Result<(), StepError> + Send + 'r;

/// Copies all pages of an image to fresh memory of the same layout.
#[expect(missing_debug_implementations, reason = "the reader is the caller's")]
pub struct CopiedMemory<'m, 'r> {
    /// Where they go: memory that nobody has written since it was mapped.
    pub memory: &'m MappedMemory,
    /// Where they come from.
    pub read: &'m mut PageReader<'r>,
}

impl MemoryRestore for CopiedMemory<'_, '_> {
    fn restore(&mut self) -> Result<MemoryReport, StepError> {
        let (mut first, mut copied_bytes) = (0, 0);
        let page_count = self.memory.layout().page_count();
        let page_bytes = usize::try_from(PAGE_BYTES)?;
        let mut buffer = vec![0; usize::try_from(CHUNK_PAGES)? * page_bytes];
        while first < page_count {
            let count = CHUNK_PAGES.min(page_count - first);
            let len = usize::try_from(count)? * page_bytes;
            let chunk = buffer.get_mut(..len).unwrap_or_default();
            (self.read)(PageRange::new(first, count), chunk)?;
            for (page, bytes) in (first..).zip(chunk.chunks(page_bytes)) {
                // Fresh memory is zero: a page that stays untouched costs nothing.
                if !snapshot_memory::is_zero(bytes) {
                    self.memory.write(page * PAGE_BYTES, bytes)?;
                    copied_bytes += PAGE_BYTES;
                }
            }
            first += count;
        }
        let report = MemoryReport::new(
            RestoreMethod::Eager,
            Verification::Eager,
            CheckedBy::Digests,
        );
        Ok(report.copied(copied_bytes))
    }
}
