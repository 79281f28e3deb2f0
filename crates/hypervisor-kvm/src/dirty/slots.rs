//! Memory slots, and where their pages lie in the image.

// UNSAFETY: no operation; a promise about memory slots is taken.
#![expect(
    unsafe_code,
    reason = "whoever names memory slots vouches for them in an unsafe fn"
)]

use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::KVM_MEM_GUEST_MEMFD;
use snapshot_format::{GuestAddress, GuestPage, MemoryLayout, PAGE_BYTES, PageIndex, PageRange};
use snapshot_memory::DirtyBitmap;

use crate::calls::MemorySlot;
use crate::error::KvmError;

/// A slot whose pages are memory of the layout.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Slot {
    pub(super) registered: MemorySlot,
    /// Where its pages lie in the image, in the order of the slot's pages.
    pub(super) pages: PageRange,
}

/// The slots that together back a layout.
#[derive(Clone, Debug)]
pub(super) struct SlotTable {
    pub(super) layout: MemoryLayout,
    /// By number.
    slots: Vec<Slot>,
}

impl SlotTable {
    /// Checks that each slot lies within one region, that every page of the layout is in a slot,
    /// and that no two of one address space hold the same page.
    pub(super) fn new(layout: MemoryLayout, slots: &[MemorySlot]) -> Result<Self, KvmError> {
        let placed = slots.iter().map(|slot| Slot::in_layout(*slot, &layout));
        let mut slots = placed.collect::<Result<Vec<_>, _>>()?;
        slots.sort_by_key(|slot| (slot.address_space(), slot.pages.start));
        for pair in slots.windows(2) {
            let [before, slot] = pair else { continue };
            let apart = before.address_space() != slot.address_space();
            if !apart && before.pages.end() > slot.pages.start {
                return Err(KvmError::SlotTwice {
                    slot: slot.registered.slot,
                    other: before.registered.slot,
                });
            }
        }
        slots.sort_by_key(|slot| slot.registered.slot);
        let mut numbers = slots.windows(2);
        if let Some([slot, other]) =
            numbers.find(|pair| matches!(pair, [a, b] if a.registered.slot == b.registered.slot))
        {
            return Err(KvmError::SlotTwice {
                slot: slot.registered.slot,
                other: other.registered.slot,
            });
        }
        let backed = DirtyBitmap::new(layout.page_count());
        for slot in &slots {
            backed.set_range(slot.pages);
        }
        let bare = backed.iter_runs().next();
        let bare = match bare {
            Some(run) if run.start == PageIndex(0) => run.end(),
            _ => PageIndex(0),
        };
        if let Some(address) = layout.guest_page(bare).and_then(GuestPage::address) {
            return Err(KvmError::NoSlot {
                guest_address: address.0,
            });
        }
        Ok(Self { layout, slots })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter()
    }

    /// The slot with this number.
    pub(super) fn get(&self, number: u32) -> Option<&Slot> {
        let place = self
            .slots
            .binary_search_by_key(&number, |slot| slot.registered.slot);
        self.slots.get(place.ok()?)
    }

    /// Whether a slot is registered here exactly as in `other`.
    pub(super) fn has_same(&self, slot: &Slot) -> bool {
        let here = self.get(slot.registered.slot);
        here.is_some_and(|here| here.registered == slot.registered)
    }

    /// Marks the pages of `new`, in its image, that are memory here as well but backed by other
    /// host memory.
    pub(super) fn mark_replaced(&self, new: &Self, changed: &DirtyBitmap) {
        for slot in new.iter() {
            let (ours, theirs) = (slot.registered, slot.pages);
            let shift = ours.host_address.wrapping_sub(ours.guest_address);
            for old in self.iter() {
                let was = old.registered;
                if was.host_address.wrapping_sub(was.guest_address) == shift
                    || was.address_space() != ours.address_space()
                {
                    continue;
                }
                let from = ours.guest_address.max(was.guest_address);
                let to = ours.end().min(was.end());
                if from < to {
                    let first = theirs.start.0 + (from - ours.guest_address) / PAGE_BYTES;
                    changed.set_range(PageRange::new(first, (to - from) / PAGE_BYTES));
                }
            }
        }
    }
}

impl Slot {
    fn in_layout(registered: MemorySlot, layout: &MemoryLayout) -> Result<Self, KvmError> {
        let MemorySlot {
            slot,
            flags,
            guest_address,
            len_bytes,
            ..
        } = registered;
        if flags & KVM_MEM_GUEST_MEMFD != 0 {
            return Err(KvmError::PrivateMemory {
                what: "a memory slot of guest_memfd",
            });
        }
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
        if !whole {
            return Err(outside);
        }
        Ok(Self { registered, pages })
    }

    fn address_space(&self) -> u32 {
        self.registered.address_space()
    }
}

impl MemorySlot {
    /// One past the last guest physical address. The slot lies in a layout.
    fn end(&self) -> u64 {
        self.guest_address.saturating_add(self.len_bytes)
    }

    /// System management mode has slots of its own, told by the upper half of the number.
    fn address_space(&self) -> u32 {
        self.slot >> 16
    }
}

/// Tells a KVM dirty source which slots there are after a change of the memory.
#[derive(Clone, Debug, Default)]
pub struct KvmSlots {
    next: Arc<Mutex<Option<Vec<MemorySlot>>>>,
}

impl KvmSlots {
    /// Names all slots as they are registered from now on. To be called within
    /// [`DirtyTracker::change_layout`](snapshot_memory::DirtyTracker::change_layout), after slots
    /// were deleted and added.
    ///
    /// A slot whose length changes is deleted and added again, as KVM asks for. Pages that stay
    /// keep their bits if they keep their host memory; else they count as written.
    ///
    /// # Safety
    ///
    /// Each of `slots` is registered in the machine of the source exactly so: same number,
    /// addresses and length. The source changes its flags, and the kernel takes the rest of what
    /// is named here for the slot.
    pub unsafe fn replace(&self, slots: Vec<MemorySlot>) {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(slots);
    }

    pub(super) fn take(&self) -> Option<Vec<MemorySlot>> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        next.take()
    }
}

#[cfg(test)]
mod tests;
