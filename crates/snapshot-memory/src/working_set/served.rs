//! A page server: what a working set is recorded from, and what it is put into.

use std::error::Error;

use snapshot_format::{PageRange, WorkingSetOrigin};

use super::target::PageTarget;
use super::touched::TouchedPages;
use crate::serve::{FaultTrace, PageServer, Prefetcher};

impl TouchedPages {
    /// The pages that a server has brought because threads waited for them, in that order.
    ///
    /// A server brings a window around each fault, of which the trace says all: one that records
    /// has a window of one page.
    #[must_use]
    pub fn of_trace(page_count: u64, trace: &FaultTrace) -> Self {
        let mut touched = Self::new(page_count, WorkingSetOrigin::Trace);
        touched.add_all(trace.runs.iter().copied());
        touched
    }
}

impl PageTarget for PageServer {
    fn page_count(&self) -> u64 {
        PageServer::page_count(self)
    }

    fn put(&self, pages: PageRange, bytes: &[u8]) -> Result<(), Box<dyn Error + Send + Sync>> {
        Ok(self.prefetch(pages, bytes)?)
    }

    fn put_zero(&self, pages: PageRange) -> Result<(), Box<dyn Error + Send + Sync>> {
        Ok(self.prefetch_zero(pages)?)
    }
}

impl PageTarget for Prefetcher {
    fn page_count(&self) -> u64 {
        Prefetcher::page_count(self)
    }

    fn put(&self, pages: PageRange, bytes: &[u8]) -> Result<(), Box<dyn Error + Send + Sync>> {
        Ok(Prefetcher::put(self, pages, bytes)?)
    }

    fn put_zero(&self, pages: PageRange) -> Result<(), Box<dyn Error + Send + Sync>> {
        Ok(Prefetcher::put_zero(self, pages)?)
    }
}

#[cfg(test)]
mod tests;
