//! KVM's dirty log as a source of written pages.

// UNSAFETY: no operation; the constructor takes a promise about memory slots.
#![expect(
    unsafe_code,
    reason = "whoever names memory slots vouches for them in an unsafe fn"
)]

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;

use kvm_bindings::KVM_MEM_LOG_DIRTY_PAGES;
use snapshot_format::{GuestAddress, MemoryLayout, PAGE_BYTES, PageRange};
use snapshot_memory::{
    BlindSpot, BlindSpots, DirtyBitmap, DirtyError, DirtyGuarantee, DirtySource,
};

use crate::calls::{Calls, MemorySlot};
use crate::error::KvmError;
use crate::ioctl::OwnedVm;

const NAME: &str = "kvm-log";

/// Pages that a word of the log holds.
const WORD_PAGES: u64 = 64;

/// Pages that are cleared in one request: each write-protects its pages under the MMU lock, which
/// running vCPUs want as well.
const CLEAR_PAGES: u64 = 1 << 18;

/// How the log is cleared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum DirtyLogMode {
    /// `KVM_GET_DIRTY_LOG` clears what it gives: the machine was left as it was created.
    GetAndClear,
    /// `KVM_CLEAR_DIRTY_LOG` clears: the VMM enabled `KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2`.
    ///
    /// With its flag `KVM_DIRTY_LOG_INITIALLY_SET` the first harvest names every page.
    ManualProtect,
}

/// The writes of all vCPUs of a machine to its memory slots.
///
/// It sees no write of the VMM, of vhost, VFIO or of other processes: add their sources to the
/// tracker. Harvest before a slot is deleted, moved or resized.
pub struct KvmDirtyLog {
    calls: Box<dyn Calls>,
    layout: MemoryLayout,
    slots: Vec<Slot>,
    mode: DirtyLogMode,
}

struct Slot {
    registered: MemorySlot,
    /// Where its pages lie in the image, in the order of the slot's pages.
    pages: PageRange,
    log: Vec<u64>,
}

impl KvmDirtyLog {
    /// Takes a descriptor of the machine, a duplicate will do, and the slots that together back
    /// the layout.
    ///
    /// # Safety
    ///
    /// `vm` is a KVM machine, and each of `slots` is registered in it exactly so: same number,
    /// addresses and length.
    /// The source changes its flags, and the kernel takes the rest of what is named here for the
    /// slot.
    pub unsafe fn new(
        vm: OwnedFd,
        layout: MemoryLayout,
        slots: &[MemorySlot],
        mode: DirtyLogMode,
    ) -> Result<Self, KvmError> {
        Self::with_calls(Box::new(OwnedVm::new(vm)), layout, slots, mode)
    }

    fn with_calls(
        calls: Box<dyn Calls>,
        layout: MemoryLayout,
        slots: &[MemorySlot],
        mode: DirtyLogMode,
    ) -> Result<Self, KvmError> {
        let slots = slots
            .iter()
            .map(|slot| Slot::in_layout(*slot, &layout))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            calls,
            layout,
            slots,
            mode,
        })
    }

    fn set_logging(&mut self, on: bool) -> Result<(), DirtyError> {
        for slot in &self.slots {
            let log = if on { KVM_MEM_LOG_DIRTY_PAGES } else { 0 };
            self.calls
                .set_slot_flags(slot.registered, slot.registered.flags | log)
                .map_err(failed("KVM_SET_USER_MEMORY_REGION"))?;
        }
        Ok(())
    }
}

impl Slot {
    fn in_layout(registered: MemorySlot, layout: &MemoryLayout) -> Result<Self, KvmError> {
        let MemorySlot {
            slot,
            guest_address,
            len_bytes,
            ..
        } = registered;
        let outside = KvmError::Slot {
            slot,
            guest_address,
            len_bytes,
        };
        let start = GuestAddress(guest_address);
        let count = len_bytes / PAGE_BYTES;
        if !start.is_page_aligned() || !len_bytes.is_multiple_of(PAGE_BYTES) || count == 0 {
            return Err(outside);
        }
        let Some(first) = layout.image_page(start.page()) else {
            return Err(outside);
        };
        let pages = PageRange::new(first.0, count);
        // One run of the same length: the slot lies in one region.
        let mut runs = layout.runs(pages);
        let whole = runs.next().is_some_and(|(_, run)| run == pages) && runs.next().is_none();
        let Some(words) = usize::try_from(count.div_ceil(WORD_PAGES))
            .ok()
            .filter(|_| whole)
        else {
            return Err(outside);
        };
        Ok(Self {
            registered,
            pages,
            log: vec![0; words],
        })
    }

    /// Clears the pages that the log names, and those only: what was written since it was fetched
    /// stays set.
    fn clear(&mut self, calls: &mut (dyn Calls + '_)) -> io::Result<()> {
        let (slot, count) = (self.registered.slot, self.pages.count);
        let words_at_once = usize::try_from(CLEAR_PAGES / WORD_PAGES).unwrap_or(usize::MAX);
        let mut first = 0;
        for words in self.log.chunks_mut(words_at_once) {
            // A multiple of 64 pages, or all that is left of the slot.
            let pages = (count - first).min(CLEAR_PAGES);
            if words.iter().any(|&word| word != 0) {
                let pages = u32::try_from(pages).map_err(io::Error::other)?;
                calls.clear_dirty_log(slot, first, pages, words)?;
            }
            first += pages;
        }
        Ok(())
    }
}

impl DirtySource for KvmDirtyLog {
    fn name(&self) -> &'static str {
        NAME
    }

    fn guarantee(&self) -> DirtyGuarantee {
        DirtyGuarantee::Exact
    }

    fn blind_spots(&self) -> BlindSpots {
        BlindSpots::all_but(&[BlindSpot::Vcpus])
    }

    fn layout(&self) -> &MemoryLayout {
        &self.layout
    }

    fn granule_bytes(&self) -> u64 {
        PAGE_BYTES
    }

    fn start(&mut self) -> Result<(), DirtyError> {
        self.set_logging(true)
    }

    fn harvest(&mut self, into: &DirtyBitmap) -> Result<(), DirtyError> {
        for slot in &mut self.slots {
            self.calls
                .dirty_log(slot.registered.slot, &mut slot.log)
                .map_err(failed("KVM_GET_DIRTY_LOG"))?;
            // Before the clearing: from then on nobody but us knows of these pages.
            into.or_log(slot.pages, &slot.log);
            if self.mode == DirtyLogMode::ManualProtect {
                slot.clear(&mut *self.calls)
                    .map_err(failed("KVM_CLEAR_DIRTY_LOG"))?;
            }
        }
        Ok(())
    }

    fn stop(&mut self) -> Result<(), DirtyError> {
        self.set_logging(false)
    }
}

impl fmt::Debug for KvmDirtyLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvmDirtyLog")
            .field("slots", &self.slots.len())
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

fn failed(call: &'static str) -> impl Fn(io::Error) -> DirtyError {
    move |source| DirtyError::System {
        name: NAME,
        call,
        source,
    }
}

#[cfg(test)]
mod tests;
