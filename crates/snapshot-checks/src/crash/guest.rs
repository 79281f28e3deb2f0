//! A guest whose memory is mapped here, and that runs when it is told to.

use std::io;

use snapshot_format::{
    GuestAddress, LayoutError, MemoryLayout, MemoryRegion, PAGE_BYTES, PageRange,
};
use snapshot_memory::{GuestMemorySource, HostRun, MappedMemory, MappingOptions, MemoryError};

/// Pages of each of the two regions, which lie in different leaves of a page map.
const REGION_PAGES: [u64; 2] = [5, 6];

/// Where the second region starts: behind a hole.
const SECOND_START: u64 = 128 << 20;

/// Guest memory that a test writes.
#[derive(Debug)]
pub(super) struct Guest(MappedMemory);

impl Guest {
    /// A guest whose memory is `image`, or zero.
    pub(super) fn new(image: Option<&[u8]>) -> io::Result<Self> {
        let layout = layout().map_err(io::Error::other)?;
        let memory = MappedMemory::new(layout, MappingOptions::default())?;
        if let Some(image) = image {
            memory.write(0, image).map_err(io::Error::other)?;
        }
        Ok(Self(memory))
    }

    /// A copy of the memory.
    pub(super) fn image(&self) -> Vec<u8> {
        let mut image = vec![0; self.0.len_bytes()];
        let read = self.0.read(0, &mut image);
        debug_assert!(read.is_ok(), "all of a mapping can be read: {read:?}");
        image
    }

    /// Writes to some pages, as `seed` says; one of them becomes zero. The pages are returned.
    pub(super) fn scribble(&self, seed: u8) -> Vec<PageRange> {
        let count = self.0.layout().page_count();
        let touch = |step: u64| {
            let page = (u64::from(seed) * 7 + step * 3) % count;
            let value = seed.wrapping_mul(31).wrapping_add(u8::from(step != 0));
            self.set(page, if step == 3 { 0 } else { value })
        };
        (0..4).map(touch).collect()
    }

    /// Writes to every page, none of which is zero then. The pages are returned.
    pub(super) fn fill(&self, seed: u8) -> Vec<PageRange> {
        let pages = (0..self.0.layout().page_count()).zip((0..=254).cycle());
        pages
            .map(|(page, at)| self.set(page, (seed ^ at).max(1)))
            .collect()
    }

    fn set(&self, page: u64, value: u8) -> PageRange {
        let written = self.0.write(page * PAGE_BYTES, &[value; PAGE]);
        debug_assert!(
            written.is_ok(),
            "page {page} is in the mapping: {written:?}"
        );
        PageRange::new(page, 1)
    }
}

fn layout() -> Result<MemoryLayout, LayoutError> {
    let region = |start, pages| MemoryRegion {
        start: GuestAddress(start),
        len_bytes: pages * PAGE_BYTES,
    };
    MemoryLayout::new(vec![
        region(0, REGION_PAGES[0]),
        region(SECOND_START, REGION_PAGES[1]),
    ])
}

impl GuestMemorySource for Guest {
    fn layout(&self) -> &MemoryLayout {
        self.0.layout()
    }

    fn read_pages(&self, pages: PageRange, out: &mut [u8]) -> Result<(), MemoryError> {
        self.0.read_pages(pages, out)
    }

    fn host_run(&self, pages: PageRange) -> Option<HostRun<'_>> {
        self.0.host_run(pages)
    }
}

const PAGE: usize = 4096;
