//! What the pages of a working set are put into.

use std::error::Error;

use snapshot_format::{PAGE_BYTES, PageRange};

use crate::mapping::MappedMemory;
use crate::source::GuestMemorySource;

/// What the pages of a working set are put into. Calls come from several threads, for runs of pages.
pub trait PageTarget: Sync {
    /// Pages of the image.
    fn page_count(&self) -> u64;

    /// Puts `pages` in place as `bytes`, which were checked, unless they are there already.
    fn put(&self, pages: PageRange, bytes: &[u8]) -> Result<(), Box<dyn Error + Send + Sync>>;

    /// Puts `pages` in place as zero, unless they are there already.
    fn put_zero(&self, pages: PageRange) -> Result<(), Box<dyn Error + Send + Sync>>;
}

/// Memory of zero pages that no guest has run on and nobody else writes.
#[derive(Clone, Copy, Debug)]
pub struct FreshMemory<'m>(pub &'m MappedMemory);

impl PageTarget for FreshMemory<'_> {
    fn page_count(&self) -> u64 {
        self.0.layout().page_count()
    }

    fn put(&self, pages: PageRange, bytes: &[u8]) -> Result<(), Box<dyn Error + Send + Sync>> {
        let offset = pages.start.0.saturating_mul(PAGE_BYTES);
        Ok(self.0.write(offset, bytes)?)
    }

    fn put_zero(&self, _pages: PageRange) -> Result<(), Box<dyn Error + Send + Sync>> {
        Ok(())
    }
}
