//! Guest memory of VMMs that are built on rust-vmm's crate `vm-memory`.

// UNSAFETY: runs of memory that `vm-memory` maps.
#![expect(unsafe_code, reason = "hands out addresses of mapped memory")]

use std::fmt;
use std::sync::Arc;

use snapshot_format::{
    GuestAddress, LayoutError, MemoryLayout, MemoryRegion, PAGE_BYTES, PageRange,
};
use vm_memory::bitmap::{AtomicBitmap, Bitmap};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use crate::dirty::{BlindSpot, BlindSpots, DirtyBitmap, DirtyGuarantee, DirtySource};
use crate::error::{DirtyError, MemoryError};
use crate::guest_io::HostRun;
use crate::source::GuestMemorySource;

/// Memory that `vm-memory` maps, to be captured.
///
/// It holds a handle of the mappings: they stay as long as this value, whatever the VMM unplugs.
pub struct RustVmmMemory<B: Bitmap = ()> {
    memory: Arc<GuestMemoryMmap<B>>,
    layout: MemoryLayout,
}

impl<B: Bitmap> RustVmmMemory<B> {
    /// All regions of `memory`, which are of whole pages and in the order of their addresses.
    pub fn new(memory: Arc<GuestMemoryMmap<B>>) -> Result<Self, LayoutError> {
        let regions = memory.iter().map(|region| MemoryRegion {
            start: GuestAddress(region.start_addr().raw_value()),
            len_bytes: region.len(),
        });
        let layout = MemoryLayout::new(regions.collect())?;
        Ok(Self { memory, layout })
    }

    /// The handle.
    #[must_use]
    pub fn memory(&self) -> &Arc<GuestMemoryMmap<B>> {
        &self.memory
    }
}

impl<B: Bitmap + Send + Sync> GuestMemorySource for RustVmmMemory<B> {
    fn layout(&self) -> &MemoryLayout {
        &self.layout
    }

    fn read_pages(&self, pages: PageRange, mut out: &mut [u8]) -> Result<(), MemoryError> {
        MemoryError::check_buffer(pages, out.len())?;
        let mut rest = pages;
        while !rest.is_empty() {
            let found = self.host_run(rest);
            let run = found.ok_or_else(|| MemoryError::OutOfRange {
                range: pages,
                page_count: self.layout.page_count(),
            })?;
            let (part, others) = out.split_at_mut(run.len_bytes().min(out.len()));
            run.copy_to(0, part);
            out = others;
            let count = run.len_bytes() as u64 / PAGE_BYTES;
            rest = PageRange::new(rest.start.0 + count, rest.count - count);
        }
        Ok(())
    }

    fn host_run(&self, pages: PageRange) -> Option<HostRun<'_>> {
        let mut first = 0;
        for region in self.memory.iter() {
            let count = region.len() / PAGE_BYTES;
            let within = pages.start.0.checked_sub(first);
            if let Some(offset) = within.filter(|offset| *offset < count) {
                let len = (count - offset).min(pages.count) * PAGE_BYTES;
                let start = usize::try_from(offset * PAGE_BYTES).ok()?;
                let address = region.as_ptr().wrapping_add(start);
                // SAFETY:
                // - the range lies in the region's mapping, which the handle in `self` keeps;
                // - mappings and pages are aligned to 4096 bytes;
                // - `vm-memory` reaches it by volatile and atomic accesses only.
                return Some(unsafe { HostRun::new(address, usize::try_from(len).ok()?) });
            }
            first += count;
        }
        None
    }
}

/// The writes that the VMM makes through `vm-memory`, which marks them in its bitmap.
///
/// It does not see what vCPUs write: that is the hypervisor's log. Nobody else may reset the bitmap.
pub struct RustVmmWrites {
    memory: RustVmmMemory<AtomicBitmap>,
    granule_bytes: u64,
}

const NAME: &str = "vm-memory";

impl RustVmmWrites {
    /// The writes to `memory` from now on, and those that its bitmap holds already.
    ///
    /// The granule of a bitmap is a power of two of at least 4096 that divides its region.
    pub fn new(memory: RustVmmMemory<AtomicBitmap>) -> Result<Self, DirtyError> {
        let mut granule_bytes = PAGE_BYTES;
        for region in memory.memory.iter() {
            let granule = granule_of((**region).bitmap(), region.len())?;
            granule_bytes = granule_bytes.max(granule);
        }
        Ok(Self {
            memory,
            granule_bytes,
        })
    }
}

/// Bytes that a bit of `bitmap` stands for, which does not say so itself.
///
/// It has one bit for each granule, the last one rounded up. Where the quotient is whole and a power
/// of two, it is the granule, or there is one bit and it stands for all.
fn granule_of(bitmap: &AtomicBitmap, len_bytes: u64) -> Result<u64, DirtyError> {
    let granule_bytes = len_bytes / (bitmap.len() as u64).max(1);
    let is_whole = granule_bytes.checked_mul(bitmap.len() as u64) == Some(len_bytes);
    let is_known = bitmap.byte_size() as u64 == len_bytes && is_whole;
    if is_known && granule_bytes >= PAGE_BYTES && granule_bytes.is_power_of_two() {
        return Ok(granule_bytes);
    }
    Err(DirtyError::BadGranule {
        name: NAME,
        granule_bytes,
    })
}

impl DirtySource for RustVmmWrites {
    fn name(&self) -> &'static str {
        NAME
    }

    fn guarantee(&self) -> DirtyGuarantee {
        DirtyGuarantee::Exact
    }

    fn blind_spots(&self) -> BlindSpots {
        BlindSpots::all_but(&[BlindSpot::Vmm])
    }

    fn layout(&self) -> &MemoryLayout {
        &self.memory.layout
    }

    fn granule_bytes(&self) -> u64 {
        self.granule_bytes
    }

    fn start(&mut self) -> Result<(), DirtyError> {
        Ok(())
    }

    fn harvest(&mut self, into: &DirtyBitmap) -> Result<(), DirtyError> {
        let mut first = 0;
        for region in self.memory.memory.iter() {
            let bitmap = (**region).bitmap();
            let pages = granule_of(bitmap, region.len())? / PAGE_BYTES;
            // A bit is set after its bytes are written, and is taken here before they are read.
            for (word, bits) in (0..).zip(bitmap.get_and_reset()) {
                let set = (0..64).filter(|bit| bits >> bit & 1 == 1);
                set.for_each(|bit| {
                    into.set_range(PageRange::new(first + (word * 64 + bit) * pages, pages));
                });
            }
            first += region.len() / PAGE_BYTES;
        }
        Ok(())
    }

    fn stop(&mut self) -> Result<(), DirtyError> {
        Ok(())
    }
}

impl<B: Bitmap> fmt::Debug for RustVmmMemory<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RustVmmMemory")
            .field("layout", &self.layout)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for RustVmmWrites {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RustVmmWrites")
            .field("memory", &self.memory)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
