//! KVM's dirty log as a source of written pages.

// UNSAFETY: no operation; the constructor takes a promise about memory slots.
#![expect(
    unsafe_code,
    reason = "whoever names memory slots vouches for them in an unsafe fn"
)]

use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;

use kvm_bindings::{KVM_DIRTY_LOG_INITIALLY_SET, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE};
use snapshot_format::{MemoryLayout, PAGE_BYTES};
use snapshot_memory::{
    BlindSpot, BlindSpots, DirtyBitmap, DirtyError, DirtyGuarantee, DirtySource,
};

use super::machine::{failed, next_slots};
use super::slots::{KvmSlots, Slot, SlotTable};
use crate::calls::{DirtyCalls, MemorySlot};
use crate::error::KvmError;
use crate::ioctl::OwnedVm;

const NAME: &str = "kvm-log";

/// Pages that a word of the log holds.
const WORD_PAGES: u64 = 64;

/// Pages that are cleared in one request: each write-protects its pages under the MMU lock, which
/// running vCPUs want as well.
const CLEAR_PAGES: u64 = 1 << 18;

/// How the log is cleared. The constructor of the source sets the machine to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum DirtyLogMode {
    /// `KVM_GET_DIRTY_LOG` clears what it gives, and write-protects it in one go.
    GetAndClear,
    /// `KVM_CLEAR_DIRTY_LOG` clears, a part of the memory at a time: running vCPUs wait less.
    ManualProtect,
    /// The same; and starting protects nothing but sets every bit, so that the first harvest names
    /// every page and clearing it protects the memory.
    InitiallySet,
}

impl DirtyLogMode {
    const fn flags(self) -> u32 {
        match self {
            Self::GetAndClear => 0,
            Self::ManualProtect => KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE,
            Self::InitiallySet => KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET,
        }
    }
}

/// The writes of all vCPUs of a machine to its memory slots.
///
/// It sees no write of the VMM, of vhost, VFIO or of other processes: add their sources to the
/// tracker. A machine with dirty rings has no log; see [`DirtyRings`](crate::DirtyRings).
pub struct KvmDirtyLog {
    calls: Box<dyn DirtyCalls>,
    slots: SlotTable,
    mode: DirtyLogMode,
    handle: KvmSlots,
    is_started: bool,
    /// The log of one slot.
    log: Vec<u64>,
}

impl KvmDirtyLog {
    /// Takes a descriptor of the machine, a duplicate will do, and the slots that together back
    /// the layout; sets the machine to `mode`.
    ///
    /// Fails with [`KvmError::PrivateMemory`] where nobody but the guest can read its memory, and
    /// with [`KvmError::Unsupported`] where the kernel lacks the mode.
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

    /// What tells this source of slots that are added and deleted.
    #[must_use]
    pub fn slots(&self) -> KvmSlots {
        self.handle.clone()
    }

    fn with_calls(
        mut calls: Box<dyn DirtyCalls>,
        layout: MemoryLayout,
        slots: &[MemorySlot],
        mode: DirtyLogMode,
    ) -> Result<Self, KvmError> {
        let slots = SlotTable::new(layout, slots)?;
        calls.refuse_private_memory()?;
        calls.set_manual_protect(mode.flags())?;
        Ok(Self {
            calls,
            slots,
            mode,
            handle: KvmSlots::default(),
            is_started: false,
            log: Vec::new(),
        })
    }

    fn peek_slot(&mut self, slot: &Slot, into: &DirtyBitmap) -> Result<(), DirtyError> {
        fetch(&mut *self.calls, NAME, slot, &mut self.log)?;
        into.or_log(slot.pages, &self.log);
        Ok(())
    }

    fn harvest_slot(&mut self, slot: &Slot, into: &DirtyBitmap) -> Result<(), DirtyError> {
        // Before the clearing: from then on nobody but us knows of these pages.
        self.peek_slot(slot, into)?;
        if self.mode != DirtyLogMode::GetAndClear {
            clear(&mut *self.calls, slot, &mut self.log)
                .map_err(failed(NAME, "KVM_CLEAR_DIRTY_LOG"))?;
        }
        Ok(())
    }
}

/// Fetches the log of a slot.
pub(super) fn fetch(
    calls: &mut dyn DirtyCalls,
    name: &'static str,
    slot: &Slot,
    log: &mut Vec<u64>,
) -> Result<(), DirtyError> {
    make_room(name, slot.pages.count, log)?;
    calls
        .dirty_log(slot.registered.slot, log)
        .map_err(failed(name, "KVM_GET_DIRTY_LOG"))
}

/// Makes an empty log of so many pages.
fn make_room(name: &'static str, pages: u64, log: &mut Vec<u64>) -> Result<(), DirtyError> {
    let words = usize::try_from(pages.div_ceil(WORD_PAGES))
        .map_err(|_| failed(name, "make room for the log")(io::ErrorKind::OutOfMemory.into()))?;
    log.clear();
    log.resize(words, 0);
    Ok(())
}

/// Clears the pages that the log names, and those only: what was written since it was fetched
/// stays set.
fn clear(calls: &mut dyn DirtyCalls, slot: &Slot, log: &mut [u64]) -> io::Result<()> {
    let (number, count) = (slot.registered.slot, slot.pages.count);
    let words_at_once = usize::try_from(CLEAR_PAGES / WORD_PAGES).unwrap_or(usize::MAX);
    let mut first = 0;
    for words in log.chunks_mut(words_at_once) {
        // A multiple of 64 pages, or all that is left of the slot.
        let pages = (count - first).min(CLEAR_PAGES);
        if words.iter().any(|&word| word != 0) {
            let pages = u32::try_from(pages).map_err(io::Error::other)?;
            calls.clear_dirty_log(number, first, pages, words)?;
        }
        first += pages;
    }
    Ok(())
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
        &self.slots.layout
    }

    fn granule_bytes(&self) -> u64 {
        PAGE_BYTES
    }

    fn start(&mut self) -> Result<(), DirtyError> {
        self.calls.set_logging(NAME, &self.slots, true)?;
        self.is_started = true;
        Ok(())
    }

    fn harvest(&mut self, into: &DirtyBitmap) -> Result<(), DirtyError> {
        let slots = self.slots.clone();
        slots
            .iter()
            .try_for_each(|slot| self.harvest_slot(slot, into))
    }

    /// Protects nothing, but in the mode that clears what it gives.
    fn peek(&mut self, into: &DirtyBitmap) -> Result<(), DirtyError> {
        let slots = self.slots.clone();
        slots.iter().try_for_each(|slot| self.peek_slot(slot, into))
    }

    fn make_ready(&mut self, _: NonZeroUsize) -> Result<(), DirtyError> {
        // What the longest log takes, got and touched before a machine waits for it.
        let longest = self.slots.iter().map(|slot| slot.pages.count).max();
        make_room(NAME, longest.unwrap_or(0), &mut self.log)
    }

    fn stop(&mut self) -> Result<(), DirtyError> {
        self.is_started = false;
        self.calls.set_logging(NAME, &self.slots, false)
    }

    fn change_layout(
        &mut self,
        layout: &MemoryLayout,
        changed: &DirtyBitmap,
    ) -> Result<(), DirtyError> {
        let new = next_slots(NAME, &self.handle, &self.slots, layout, changed)?;
        let old = std::mem::replace(&mut self.slots, new);
        if !self.is_started {
            return Ok(());
        }
        // For slots that stay as they are this is what they have already.
        self.calls.set_logging(NAME, &self.slots, true)?;
        if self.mode == DirtyLogMode::InitiallySet {
            let unwritten = DirtyBitmap::new(layout.page_count());
            let slots = self.slots.clone();
            let mut added = slots.iter().filter(|slot| !old.has_same(slot));
            added.try_for_each(|slot| self.harvest_slot(slot, &unwritten))?;
        }
        Ok(())
    }
}

impl fmt::Debug for KvmDirtyLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvmDirtyLog")
            .field("slots", &self.slots.iter().count())
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
