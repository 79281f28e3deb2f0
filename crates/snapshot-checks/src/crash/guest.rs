//! A guest that is a vector of bytes.

use std::sync::{Arc, Mutex, PoisonError};

use snapshot_format::{
    GuestAddress, LayoutError, MemoryLayout, MemoryRegion, PAGE_BYTES, PageRange,
};
use snapshot_memory::{GuestMemorySource, HostRun, MemoryError};

/// Pages of each of the two regions, which lie in different leaves of a page map.
const REGION_PAGES: [u64; 2] = [5, 6];

/// Where the second region starts: behind a hole.
const SECOND_START: u64 = 128 << 20;

/// Guest memory that a test writes. Clones are the same memory.
#[derive(Clone, Debug)]
pub(super) struct Guest {
    layout: MemoryLayout,
    bytes: Arc<Mutex<Vec<u8>>>,
}

impl Guest {
    /// A guest whose memory is `image`, or zero.
    pub(super) fn new(image: Option<&[u8]>) -> Result<Self, LayoutError> {
        let layout = MemoryLayout::new(vec![
            MemoryRegion {
                start: GuestAddress(0),
                len_bytes: REGION_PAGES[0] * PAGE_BYTES,
            },
            MemoryRegion {
                start: GuestAddress(SECOND_START),
                len_bytes: REGION_PAGES[1] * PAGE_BYTES,
            },
        ])?;
        let zeros = || vec![0; usize::try_from(layout.len_bytes()).unwrap_or(0)];
        let bytes = image.map_or_else(zeros, <[u8]>::to_vec);
        Ok(Self {
            layout,
            bytes: Arc::new(Mutex::new(bytes)),
        })
    }

    /// A copy of the memory.
    pub(super) fn image(&self) -> Vec<u8> {
        self.lock().clone()
    }

    /// Writes to some pages, as `seed` says; one of them becomes zero. The pages are returned.
    pub(super) fn scribble(&self, seed: u8) -> Vec<PageRange> {
        let mut bytes = self.lock();
        let count = bytes.chunks(PAGE).count();
        let mut touched = Vec::new();
        for step in 0..4_usize {
            let page = (usize::from(seed) * 7 + step * 3) % count;
            if let Some(bytes) = bytes.chunks_mut(PAGE).nth(page) {
                let value = seed.wrapping_mul(31).wrapping_add(u8::from(step != 0));
                bytes.fill(if step == 3 { 0 } else { value });
            }
            touched.push(PageRange::new(page as u64, 1));
        }
        touched
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl GuestMemorySource for Guest {
    fn layout(&self) -> &MemoryLayout {
        &self.layout
    }

    fn read_pages(&self, pages: PageRange, out: &mut [u8]) -> Result<(), MemoryError> {
        MemoryError::check_buffer(pages, out.len())?;
        let bytes = self.lock();
        let start = pages.start.image_offset().unwrap_or(u64::MAX);
        let start = usize::try_from(start).unwrap_or(usize::MAX);
        let found = bytes.get(start..start.saturating_add(out.len()));
        let found = found.ok_or_else(|| MemoryError::OutOfRange {
            range: pages,
            page_count: self.layout.page_count(),
        })?;
        out.copy_from_slice(found);
        Ok(())
    }

    fn host_run(&self, _pages: PageRange) -> Option<HostRun<'_>> {
        None
    }
}

const PAGE: usize = 4096;
