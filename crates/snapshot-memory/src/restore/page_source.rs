//! Where the pages of a restore come from.

use snapshot_format::{MemoryLayout, PageRange};

use super::SourceError;
use crate::image::{ImageError, MemoryImage};

/// Pages of a snapshot, read when they are needed.
///
/// Calls run from several threads at once, for runs of pages and never for each page. What a
/// source hands out has been checked, unless the restore was told to trust it.
pub trait PageSource: Send + Sync {
    /// Which guest physical addresses are memory.
    fn layout(&self) -> &MemoryLayout;

    /// What `pages` begin with: how many of them, at least one, are alike.
    fn run(&self, pages: PageRange) -> Result<PageRun, SourceError>;

    /// The same, and no more of them than one read brings: whoever waits for one of these pages
    /// waits for nothing else. All of the run, unless the source knows better.
    fn piece(&self, pages: PageRange) -> Result<PageRun, SourceError> {
        self.run(pages)
    }

    /// Fills `out`, which is exactly as long, with the bytes of `pages`.
    fn read_pages(&self, pages: PageRange, out: &mut [u8]) -> Result<(), SourceError>;
}

/// The first pages of a range, all zero or none known to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageRun {
    /// How many pages.
    pub count: u64,
    /// Whether all of them are zero, which takes no reading.
    pub is_zero: bool,
}

impl PageSource for MemoryImage {
    fn layout(&self) -> &MemoryLayout {
        Self::layout(self)
    }

    fn run(&self, pages: PageRange) -> Result<PageRun, SourceError> {
        let mut count = 0;
        let mut is_zero = None;
        let mut at = pages.start.0;
        while at < pages.end().0 {
            let extent = self.extent(PageRange::new(at, pages.end().0 - at))?;
            let here = extent.file.is_none();
            if is_zero.is_some_and(|first| first != here) {
                break;
            }
            is_zero = Some(here);
            count += extent.pages.count;
            at = extent.pages.end().0;
        }
        match is_zero {
            Some(is_zero) => Ok(PageRun { count, is_zero }),
            None => Err(ImageError::OutOfRange {
                range: pages,
                page_count: self.layout().page_count(),
            }
            .into()),
        }
    }

    fn piece(&self, pages: PageRange) -> Result<PageRun, SourceError> {
        let extent = self.extent(pages)?;
        Ok(PageRun {
            count: extent.pages.count,
            is_zero: extent.file.is_none(),
        })
    }

    fn read_pages(&self, pages: PageRange, out: &mut [u8]) -> Result<(), SourceError> {
        Ok(Self::read_pages(self, pages, out)?)
    }
}

#[cfg(test)]
mod tests;
