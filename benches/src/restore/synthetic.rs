//! Guest memory that is computed when it is read: it may be larger than the machine's.

use snapshot_format::{MemoryLayout, PAGE_BYTES, PageRange};
use snapshot_memory::{GuestMemorySource, HostRun, MemoryError};

use crate::guest::PAGE;
use crate::machine_code;

/// Noise in every page but the one with the guest's program. No two pages are alike, nor is a page
/// like that of another generation.
#[derive(Debug)]
pub(crate) struct Synthetic {
    layout: MemoryLayout,
    generation: u64,
}

impl Synthetic {
    /// Memory of `layout`, as it is in `generation`.
    pub(crate) fn new(layout: MemoryLayout, generation: u64) -> Self {
        Self { layout, generation }
    }

    fn fill(&self, page: u64, out: &mut [u8]) {
        if page == machine_code::PAGE {
            machine_code::fill(out);
            return;
        }
        let mut rng = fastrand::Rng::with_seed(page << 16 | self.generation);
        rng.fill(out);
    }
}

impl GuestMemorySource for Synthetic {
    fn layout(&self) -> &MemoryLayout {
        &self.layout
    }

    fn read_pages(&self, pages: PageRange, out: &mut [u8]) -> Result<(), MemoryError> {
        MemoryError::check_buffer(pages, out.len())?;
        if pages.end().0 > self.layout.page_count() {
            return Err(MemoryError::OutOfRange {
                range: pages,
                page_count: self.layout.page_count(),
            });
        }
        for (page, out) in (pages.start.0..).zip(out.chunks_exact_mut(PAGE)) {
            self.fill(page, out);
        }
        Ok(())
    }

    fn host_run(&self, _pages: PageRange) -> Option<HostRun<'_>> {
        None
    }
}

/// The layout of `len_bytes` bytes from address 0.
pub(crate) fn layout(len_bytes: u64) -> Result<MemoryLayout, crate::error::BenchError> {
    let pages = len_bytes / PAGE_BYTES;
    MemoryLayout::single(pages * PAGE_BYTES).map_err(|source| crate::error::BenchError::Map {
        len_bytes: usize::try_from(len_bytes).unwrap_or(usize::MAX),
        source: std::io::Error::new(std::io::ErrorKind::InvalidInput, source),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_differ_by_place_and_generation_and_come_back_the_same() {
        let layout = layout(1 << 20).unwrap();
        let read = |generation, page| {
            let mut out = vec![0; PAGE];
            let memory = Synthetic::new(layout.clone(), generation);
            memory
                .read_pages(PageRange::new(page, 1), &mut out)
                .unwrap();
            out
        };
        assert_eq!(read(1, 7), read(1, 7));
        assert_ne!(read(1, 7), read(2, 7));
        assert_ne!(read(1, 7), read(1, 8));
        let code = machine_code::PAGE;
        assert_eq!(read(1, code), read(2, code));
        let beyond = Synthetic::new(layout.clone(), 1);
        let pages = PageRange::new(255, 2);
        beyond
            .read_pages(pages, &mut vec![0; 2 * PAGE])
            .unwrap_err();
    }
}
