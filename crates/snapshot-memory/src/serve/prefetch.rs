//! Putting pages in place before anybody touches them.

use std::sync::Arc;

use snapshot_format::{PAGE_BYTES, PageRange};

use super::ServeError;
use super::engine::{Cause, Content, Engine};

/// Puts pages in place that somebody expects to be touched; clones are of the same server.
///
/// Whoever has one lets go of it before the memory is unmapped.
#[derive(Clone, Debug)]
pub(crate) struct Prefetcher {
    engine: Arc<Engine>,
}

impl Prefetcher {
    pub(super) fn new(engine: Arc<Engine>) -> Self {
        Self { engine }
    }

    /// Pages of the image that is served.
    pub(crate) fn page_count(&self) -> u64 {
        self.engine.origin.source().layout().page_count()
    }

    /// Puts `pages` in place as `bytes`, which were checked.
    pub(crate) fn put(&self, pages: PageRange, bytes: &[u8]) -> Result<(), ServeError> {
        let found = bytes.len();
        if pages.len_bytes() != Some(found as u64) {
            return Err(ServeError::BufferLength { pages, found });
        }
        for part in self.engine.map.parts(pages) {
            let skip = (part.pages.start.0 - pages.start.0) * PAGE_BYTES;
            let len = part.addresses.end - part.addresses.start;
            let at = |offset| usize::try_from(offset).unwrap_or(usize::MAX);
            let bytes = bytes.get(at(skip)..at(skip + len)).unwrap_or_default();
            let content = self.engine.origin.keep(part.pages, bytes);
            let content = content.map_err(|source| ServeError::source(pages, source))?;
            self.engine.put_in_place(&part, content, Cause::Prefetch)?;
        }
        Ok(())
    }

    /// Puts `pages` in place as zero.
    pub(crate) fn put_zero(&self, pages: PageRange) -> Result<(), ServeError> {
        let mut parts = self.engine.map.parts(pages);
        parts.try_for_each(|part| {
            self.engine
                .put_in_place(&part, Content::Zero, Cause::Prefetch)
        })
    }
}
