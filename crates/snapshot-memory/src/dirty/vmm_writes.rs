//! What the VMM itself writes to guest memory.

use std::sync::Arc;

use snapshot_format::{GuestAddress, MemoryLayout, PAGE_BYTES, PageRange};

use super::{DirtyBitmap, DirtyGuarantee, DirtySource};
use crate::error::DirtyError;

/// The dirty source of a VMM's own writes: device emulation, boot code, discarded pages. No
/// hypervisor log sees them.
#[derive(Debug)]
pub struct VmmWrites {
    layout: MemoryLayout,
    bits: Arc<DirtyBitmap>,
}

/// Marks pages that the VMM wrote. Clones mark the same pages; any thread may.
#[derive(Clone, Debug)]
pub struct WriteMarker {
    layout: Arc<MemoryLayout>,
    bits: Arc<DirtyBitmap>,
}

impl VmmWrites {
    /// A source for the memory of `layout`, and what marks in it.
    #[must_use]
    pub fn new(layout: MemoryLayout) -> (Self, WriteMarker) {
        let bits = Arc::new(DirtyBitmap::new(layout.page_count()));
        let marker = WriteMarker {
            layout: Arc::new(layout.clone()),
            bits: bits.clone(),
        };
        (Self { layout, bits }, marker)
    }
}

impl WriteMarker {
    /// Marks image pages. Call it after the write: a harvest in between must not clear the bit
    /// of a page whose bytes are still to come.
    pub fn mark(&self, pages: PageRange) {
        self.bits.set_range(pages);
    }

    /// Marks the pages that hold `len_bytes` bytes at `start`; addresses that are no memory are
    /// ignored. Call it after the write.
    pub fn mark_bytes(&self, start: GuestAddress, len_bytes: u64) {
        if len_bytes == 0 {
            return;
        }
        let end = start.0.saturating_add(len_bytes);
        let mut image_first = 0;
        for region in self.layout.regions() {
            let from = start.0.max(region.start.0);
            let to = end.min(region.start.0 + region.len_bytes);
            if from < to {
                let first = (from - region.start.0) / PAGE_BYTES;
                let last = (to - 1 - region.start.0) / PAGE_BYTES;
                self.mark(PageRange::new(image_first + first, last - first + 1));
            }
            image_first += region.len_bytes / PAGE_BYTES;
        }
    }
}

impl DirtySource for VmmWrites {
    fn name(&self) -> &'static str {
        "vmm"
    }

    fn guarantee(&self) -> DirtyGuarantee {
        DirtyGuarantee::Exact
    }

    fn layout(&self) -> &MemoryLayout {
        &self.layout
    }

    fn granule_bytes(&self) -> u64 {
        PAGE_BYTES
    }

    fn start(&mut self) -> Result<(), DirtyError> {
        Ok(())
    }

    fn harvest(&mut self, into: &DirtyBitmap) -> Result<(), DirtyError> {
        into.or_from(&self.bits.take());
        Ok(())
    }

    fn stop(&mut self) -> Result<(), DirtyError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use snapshot_format::MemoryRegion;

    use super::*;

    #[test]
    fn bytes_mark_every_page_that_they_touch_in_every_region() {
        let region = |start, len_bytes| MemoryRegion {
            start: GuestAddress(start),
            len_bytes,
        };
        // Pages 2 to 4 and 8 to 10 of the guest are pages 0 to 2 and 3 to 5 of the image.
        let layout = MemoryLayout::new(vec![region(8192, 12288), region(32768, 12288)]).unwrap();
        let (mut source, marker) = VmmWrites::new(layout);
        let mut marked = |start, len| -> Vec<PageRange> {
            marker.mark_bytes(GuestAddress(start), len);
            let bits = DirtyBitmap::new(6);
            source.harvest(&bits).unwrap();
            bits.iter_runs().collect()
        };
        assert_eq!(marked(8192, 0), []);
        assert_eq!(marked(8192, 1), [PageRange::new(0, 1)]);
        assert_eq!(marked(12287, 2), [PageRange::new(0, 2)]);
        assert_eq!(marked(16384, 32768 - 16384 + 1), [PageRange::new(2, 2)]);
        assert_eq!(marked(0, u64::MAX), [PageRange::new(0, 6)]);
        assert_eq!(marked(u64::MAX, 2), []);
    }
}
