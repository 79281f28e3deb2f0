//! What the VMM itself writes to guest memory.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use snapshot_format::{GuestAddress, MemoryLayout, PAGE_BYTES, PageRange};

use super::{BlindSpot, BlindSpots, DirtyBitmap, DirtyGuarantee, DirtySource};
use crate::error::DirtyError;

/// The dirty source of a VMM's own writes: device emulation, boot code, discarded pages. No
/// hypervisor log sees them.
#[derive(Debug)]
pub struct VmmWrites {
    layout: Arc<MemoryLayout>,
    watched: Arc<RwLock<Watched>>,
}

/// Marks pages that the VMM wrote. Clones mark the same pages; any thread may.
#[derive(Clone, Debug)]
pub struct WriteMarker {
    watched: Arc<RwLock<Watched>>,
}

/// The memory, and what was written of it. Locked exclusively only while the memory changes.
#[derive(Debug)]
struct Watched {
    layout: Arc<MemoryLayout>,
    bits: DirtyBitmap,
}

impl VmmWrites {
    /// A source for the memory of `layout`, and what marks in it.
    #[must_use]
    pub fn new(layout: MemoryLayout) -> (Self, WriteMarker) {
        let layout = Arc::new(layout);
        let watched = Arc::new(RwLock::new(Watched {
            layout: layout.clone(),
            bits: DirtyBitmap::new(layout.page_count()),
        }));
        let marker = WriteMarker {
            watched: watched.clone(),
        };
        (Self { layout, watched }, marker)
    }
}

impl WriteMarker {
    /// Marks image pages of the memory as it is laid out now. Call it after the write: a harvest
    /// in between must not clear the bit of a page whose bytes are still to come.
    ///
    /// Where memory may be plugged meanwhile, [`mark_bytes`](Self::mark_bytes) is the one to call:
    /// pages of the image move then, guest physical addresses do not.
    pub fn mark(&self, pages: PageRange) {
        read(&self.watched).bits.set_range(pages);
    }

    /// Marks the pages that hold `len_bytes` bytes at `start`; addresses that are no memory are
    /// ignored. Call it after the write.
    pub fn mark_bytes(&self, start: GuestAddress, len_bytes: u64) {
        if len_bytes == 0 {
            return;
        }
        let end = start.0.saturating_add(len_bytes);
        let watched = read(&self.watched);
        let mut image_first = 0;
        for region in watched.layout.regions() {
            let from = start.0.max(region.start.0);
            let to = end.min(region.start.0 + region.len_bytes);
            if from < to {
                let first = (from - region.start.0) / PAGE_BYTES;
                let last = (to - 1 - region.start.0) / PAGE_BYTES;
                let pages = PageRange::new(image_first + first, last - first + 1);
                watched.bits.set_range(pages);
            }
            image_first += region.len_bytes / PAGE_BYTES;
        }
    }
}

/// Nobody who holds the lock panics half way: the bits are whole in any case.
fn read(watched: &RwLock<Watched>) -> RwLockReadGuard<'_, Watched> {
    watched.read().unwrap_or_else(PoisonError::into_inner)
}

impl DirtySource for VmmWrites {
    fn name(&self) -> &'static str {
        "vmm"
    }

    fn guarantee(&self) -> DirtyGuarantee {
        DirtyGuarantee::Exact
    }

    fn blind_spots(&self) -> BlindSpots {
        BlindSpots::all_but(&[BlindSpot::Vmm, BlindSpot::Discards])
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
        into.or_from(&read(&self.watched).bits.take());
        Ok(())
    }

    fn peek(&mut self, into: &DirtyBitmap) -> Result<(), DirtyError> {
        // Taking the bits makes a bitmap.
        into.or_from(&read(&self.watched).bits);
        Ok(())
    }

    fn stop(&mut self) -> Result<(), DirtyError> {
        Ok(())
    }

    fn change_layout(
        &mut self,
        layout: &MemoryLayout,
        changed: &DirtyBitmap,
    ) -> Result<(), DirtyError> {
        let layout = Arc::new(layout.clone());
        let mut watched = self.watched.write().unwrap_or_else(PoisonError::into_inner);
        // What was marked since the last harvest, in the pages that it was marked in.
        for run in watched.layout.shared_runs(&layout) {
            changed.or_moved(&watched.bits, run.pages, run.other);
        }
        *watched = Watched {
            layout: layout.clone(),
            bits: DirtyBitmap::new(layout.page_count()),
        };
        drop(watched);
        self.layout = layout;
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
