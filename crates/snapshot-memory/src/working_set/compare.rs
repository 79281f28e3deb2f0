//! Holding a working set against its snapshot.

use std::error::Error;

use snapshot_format::{PAGE_BYTES, PageRange};

use super::error::WorkingSetError;
use super::open::WorkingSet;
use super::replay_options::ReplayOptions;
use super::target::PageTarget;
use crate::restore::PageSource;
use crate::zero::is_zero;

impl WorkingSet {
    /// Compares every page with the snapshot's own, as `source` has it: all bytes of both are read
    /// and checked.
    pub fn compare(&mut self, source: &dyn PageSource) -> Result<(), WorkingSetError> {
        let compared = self.replay(&Compared(source), &ReplayOptions::new(1));
        match compared {
            Ok(_) => Ok(()),
            Err(WorkingSetError::Place { pages, source }) if source.is::<Unequal>() => {
                Err(WorkingSetError::Differs {
                    file: self.file.name().to_owned(),
                    pages,
                })
            }
            Err(error) => Err(error),
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
