//! Holding a working set against its snapshot.

use std::error::Error;
use std::ops::ControlFlow;

use snapshot_format::{PAGE_BYTES, PageRange};

use super::error::WorkingSetError;
use super::open::WorkingSet;
use super::replay_options::ReplayOptions;
use super::target::PageTarget;
use crate::restore::{PageSource, SourceError};
use crate::zero::is_zero;

/// Bytes of data that are compared between two questions whether to go on: whole pieces.
const PART_BYTES: u64 = 64 << 20;

impl WorkingSet {
    /// Compares every page with the snapshot's own, as `source` has it: all bytes of both are read
    /// and checked.
    ///
    /// `tell` is given how many bytes of data were compared since it was last called, and ends the
    /// comparison as [`WorkingSetError::Cancelled`] by breaking.
    pub fn compare(
        &mut self,
        source: &dyn PageSource,
        tell: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<(), WorkingSetError> {
        // Zero pages before any data, and all pages where there is no data, are of the first part.
        let end = self.index.data_len().max(1);
        let mut start = 0;
        while start < end {
            let next = start.saturating_add(PART_BYTES).min(end);
            let part = ReplayOptions::new(1).part(start..next);
            let replayed = self.replay(&Compared(source), &part);
            let replayed = replayed.map_err(|error| self.told(error))?;
            let bytes = replayed.data_pages.saturating_mul(PAGE_BYTES);
            if tell(bytes).is_break() {
                return Err(WorkingSetError::Cancelled);
            }
            start = next;
        }
        Ok(())
    }

    /// What the target of a comparison says, in the words of this folder.
    fn told(&self, error: WorkingSetError) -> WorkingSetError {
        let WorkingSetError::Place { pages, source } = error else {
            return error;
        };
        if source.is::<Unequal>() {
            let file = self.file.name().to_owned();
            return WorkingSetError::Differs { file, pages };
        }
        match source.downcast::<SourceError>() {
            Ok(source) => WorkingSetError::Source(*source),
            Err(source) => WorkingSetError::Place { pages, source },
        }
    }
}

/// Takes pages, and refuses those that are not the source's.
struct Compared<'s>(&'s dyn PageSource);

#[derive(Debug, thiserror::Error)]
#[error("other bytes")]
struct Unequal;

impl Compared<'_> {
    fn read(&self, pages: PageRange) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> {
        let len = usize::try_from(pages.count * PAGE_BYTES)?;
        let mut bytes = vec![0; len];
        self.0.read_pages(pages, &mut bytes)?;
        Ok(bytes)
    }
}

impl PageTarget for Compared<'_> {
    fn page_count(&self) -> u64 {
        self.0.layout().page_count()
    }

    fn put(&self, pages: PageRange, bytes: &[u8]) -> Result<(), Box<dyn Error + Send + Sync>> {
        if self.read(pages)? == bytes {
            Ok(())
        } else {
            Err(Unequal.into())
        }
    }

    fn put_zero(&self, pages: PageRange) -> Result<(), Box<dyn Error + Send + Sync>> {
        let mut rest = pages;
        while !rest.is_empty() {
            let run = self.0.run(rest)?;
            // A piece at a time: zero pages may be many.
            let count = run.count.clamp(1, rest.count);
            let count = if run.is_zero { count } else { count.min(256) };
            let now = PageRange::new(rest.start.0, count);
            if !run.is_zero && !is_zero(&self.read(now)?) {
                return Err(Unequal.into());
            }
            rest = PageRange::new(now.end().0, rest.count - count);
        }
        Ok(())
    }
}
