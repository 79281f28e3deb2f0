//! KVM's dirty rings as a source of written pages.

// UNSAFETY: no operation; promises about descriptors and memory slots are taken.
#![expect(
    unsafe_code,
    reason = "whoever names descriptors and memory slots vouches for them in an unsafe fn"
)]

use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_bindings::{
    KVM_CAP_DIRTY_LOG_RING, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP,
};
use snapshot_format::{MemoryLayout, PAGE_BYTES, PageIndex};
use snapshot_memory::{
    BlindSpot, BlindSpots, DirtyBitmap, DirtyError, DirtyGuarantee, DirtySource,
};

use super::entries::{Entries, Entry, Mapping, Named, Ring, page_bytes};
use super::log::fetch;
use super::machine::{failed, next_slots};
use super::slots::{KvmSlots, SlotTable};
use crate::calls::{Arg, DirtyCalls, MemorySlot, Target};
use crate::error::KvmError;
use crate::ioctl::OwnedVm;
use crate::request::KVM_RESET_DIRTY_RINGS;

const NAME: &str = "kvm-ring";

/// Dirty rings that are enabled on a machine which has no vCPU yet.
#[must_use = "the machine has rings, and nobody takes them"]
pub struct DirtyRings {
    calls: Box<dyn DirtyCalls>,
    entries: u32,
    has_bitmap: bool,
}

/// The writes of all vCPUs of a machine to its memory slots, each vCPU's in a ring of its own.
///
/// It sees no write of the VMM, of vhost, VFIO or of other processes: add their sources to the
/// tracker. A vCPU whose ring is full leaves the guest with `KVM_EXIT_DIRTY_RING_FULL`; its thread
/// then calls [`VcpuRings::on_full`] and enters again.
///
/// The kernel may hold pages back in a buffer of the CPU until the vCPU leaves the guest: an epoch
/// is complete when it is closed while the vCPUs are stopped.
pub struct KvmDirtyRing {
    layout: MemoryLayout,
    shared: Arc<Mutex<Rings>>,
    handle: KvmSlots,
}

/// The rings of a machine, mapped: what the threads of its vCPUs hold, and what sources are made
/// of. Clones are the same rings; any thread may call.
#[derive(Clone)]
pub struct VcpuRings {
    shared: Arc<Mutex<Rings>>,
    entries: u32,
    handle: KvmSlots,
}

struct Rings {
    calls: Box<dyn DirtyCalls>,
    of_vcpus: Vec<Ring>,
    slots: SlotTable,
    /// Taken out of the rings, and not harvested.
    pending: DirtyBitmap,
    /// Why bits may be missing since the last harvest.
    lost: Option<DirtyError>,
    taken: Taken,
    has_bitmap: bool,
    is_started: bool,
    log: Vec<u64>,
}

/// What is known of the pages whose entries were taken out of the rings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Taken {
    /// The kernel protects all of them again.
    Protected,
    /// It does not, and all of them are in `pending` yet, so that no write to them can be missed.
    Kept,
    /// It does not, and nobody knows of writes to them.
    Released,
}

impl DirtyRings {
    /// Gives each vCPU that `vm` will have a ring of `entries` entries, of 16 bytes each: a power
    /// of two.
    ///
    /// To be called before the machine has a vCPU or a memory slot; the kernel refuses it later.
    /// Taken are acquire-release rings where the kernel has them. Where it writes memory without a
    /// vCPU (tables of an interrupt translation service on aarch64), the log beside the rings is
    /// enabled as well. Manual protection of the log is switched off: with bits that are set from
    /// the start, rings lose pages.
    ///
    /// # Safety
    ///
    /// `vm` is a KVM machine.
    pub unsafe fn enable(vm: OwnedFd, entries: u32) -> Result<Self, KvmError> {
        Self::with_calls(Box::new(OwnedVm::new(vm)), entries)
    }

    fn with_calls(mut calls: Box<dyn DirtyCalls>, entries: u32) -> Result<Self, KvmError> {
        calls.refuse_private_memory()?;
        let (capability, limit_bytes) = match calls.extension(KVM_CAP_DIRTY_LOG_RING_ACQ_REL)? {
            0 => {
                let limit = calls.extension(KVM_CAP_DIRTY_LOG_RING)?;
                (KVM_CAP_DIRTY_LOG_RING, limit)
            }
            limit => (KVM_CAP_DIRTY_LOG_RING_ACQ_REL, limit),
        };
        if limit_bytes == 0 {
            return Err(KvmError::Unsupported {
                what: "dirty rings (Linux 5.11 on x86-64, 6.2 on aarch64); use the dirty log",
            });
        }
        let bytes = u64::from(entries) * size_of::<Entry>() as u64;
        let least = page_bytes()
            .ok()
            .and_then(|bytes| u64::try_from(bytes).ok());
        if !entries.is_power_of_two() || bytes > limit_bytes || least.is_none_or(|l| bytes < l) {
            let entry = size_of::<Entry>() as u64;
            return Err(KvmError::RingSize {
                entries,
                least: least.unwrap_or(PAGE_BYTES) / entry,
                most: limit_bytes / entry,
            });
        }
        calls.set_manual_protect(0)?;
        calls.enable(capability, bytes)?;
        let has_bitmap = calls.extension(KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP)? != 0;
        if has_bitmap {
            calls.enable(KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP, 0)?;
        }
        Ok(Self {
            calls,
            entries,
            has_bitmap,
        })
    }

    /// Maps the rings of all vCPUs; `slots` together back the layout.
    ///
    /// # Safety
    ///
    /// `vcpus` are all vCPUs of the machine, and each of `slots` is registered in it exactly so:
    /// same number, addresses and length. The source changes its flags, and the kernel takes the
    /// rest of what is named here for the slot.
    pub unsafe fn map<V: AsRawFd>(
        self,
        vcpus: &[V],
        layout: MemoryLayout,
        slots: &[MemorySlot],
    ) -> Result<VcpuRings, KvmError> {
        let rings = vcpus.iter().enumerate().map(|(vcpu, owner)| {
            // SAFETY: the owner is borrowed and keeps its descriptor open.
            let fd = unsafe { BorrowedFd::borrow_raw(owner.as_raw_fd()) };
            map(fd, vcpu, self.entries)
        });
        let rings = rings.collect::<Result<_, _>>()?;
        self.with_rings(rings, layout, slots)
    }

    fn with_rings(
        self,
        rings: Vec<Box<dyn Entries>>,
        layout: MemoryLayout,
        slots: &[MemorySlot],
    ) -> Result<VcpuRings, KvmError> {
        let slots = SlotTable::new(layout, slots)?;
        let shared = Rings {
            calls: self.calls,
            of_vcpus: rings.into_iter().map(Ring::new).collect(),
            pending: DirtyBitmap::new(slots.layout.page_count()),
            slots,
            lost: None,
            taken: Taken::Protected,
            has_bitmap: self.has_bitmap,
            is_started: false,
            log: Vec::new(),
        };
        Ok(VcpuRings {
            shared: Arc::new(Mutex::new(shared)),
            entries: self.entries,
            handle: KvmSlots::default(),
        })
    }
}

impl VcpuRings {
    /// A source of these rings, not started. A tracker takes one with it when it goes; the next
    /// tracker is given another. One at a time may be started.
    #[must_use]
    pub fn source(&self) -> KvmDirtyRing {
        KvmDirtyRing {
            layout: lock(&self.shared).slots.layout.clone(),
            shared: self.shared.clone(),
            handle: self.handle.clone(),
        }
    }

    /// What tells the sources of slots that are added and deleted.
    #[must_use]
    pub fn slots(&self) -> KvmSlots {
        self.handle.clone()
    }

    /// Answers `KVM_EXIT_DIRTY_RING_FULL`: empties all rings, keeps what they held for the next
    /// harvest, and has the kernel go on with them. The vCPU may be entered again.
    ///
    /// An error means that the ring is still full. Entries that make no sense are no error here:
    /// the next harvest fails for them, so that every page is dirty.
    pub fn on_full(&self) -> Result<(), DirtyError> {
        lock(&self.shared).collect()
    }

    /// Maps the ring of a vCPU that was added to the machine, before it first runs.
    ///
    /// # Safety
    ///
    /// `vcpu` is a vCPU of the machine, and its ring is not mapped yet.
    pub unsafe fn add_vcpu(&self, vcpu: BorrowedFd<'_>) -> Result<(), KvmError> {
        let mut shared = lock(&self.shared);
        let ring = map(vcpu, shared.of_vcpus.len(), self.entries)?;
        shared.of_vcpus.push(Ring::new(ring));
        Ok(())
    }
}

impl Rings {
    /// Moves everything from the rings to `pending`, and has the kernel protect the pages again.
    fn collect(&mut self) -> Result<(), DirtyError> {
        self.take_entries();
        if self.taken != Taken::Protected {
            self.calls
                .call(Target::Vm, KVM_RESET_DIRTY_RINGS, Arg::Value(0))
                .map_err(failed(NAME, "KVM_RESET_DIRTY_RINGS"))?;
            self.taken = Taken::Protected;
        }
        Ok(())
    }

    /// Moves everything from the rings to `pending`.
    fn take_entries(&mut self) {
        if self.taken == Taken::Released {
            // What was written to these pages since then is in no ring.
            let what = "rings that could not be reset".to_owned();
            self.lost = Some(DirtyError::Invalid { name: NAME, what });
        }
        if self.taken == Taken::Kept {
            self.taken = Taken::Released;
        }
        let (slots, pending) = (&self.slots, &self.pending);
        for (vcpu, ring) in self.of_vcpus.iter_mut().enumerate() {
            let mut bad = None;
            let taken = ring.take(|named| match slots.place(named) {
                // Before the kernel hears of it: from then on nobody but us knows of the page.
                Some(page) => pending.set(page),
                None => bad = bad.or(Some(named)),
            });
            if !matches!(taken, Ok(0)) {
                self.taken = Taken::Released;
            }
            let what = match (taken, bad) {
                (Err(flags), _) => format!("entry of vCPU {vcpu} with flags {:#x}", flags.0),
                (Ok(_), Some(Named { slot, offset })) => {
                    format!("entry of vCPU {vcpu} for page {offset:#x} of slot {slot}")
                }
                (Ok(_), None) => continue,
            };
            let invalid = DirtyError::Invalid { name: NAME, what };
            self.lost = self.lost.take().or(Some(invalid));
        }
    }

    /// Names what is in the rings, and protects nothing: the pages stay pending until a harvest,
    /// which protects them before it lets them go.
    fn peek(&mut self, into: &DirtyBitmap) -> Result<(), DirtyError> {
        let all_are_known = self.taken != Taken::Released;
        self.take_entries();
        if all_are_known && self.taken == Taken::Released {
            self.taken = Taken::Kept;
        }
        let collected = self.collect_bitmap();
        into.or_from(&self.pending);
        collected?;
        self.lost.take().map_or(Ok(()), Err)
    }

    /// Writes of the kernel on no vCPU's behalf.
    fn collect_bitmap(&mut self) -> Result<(), DirtyError> {
        if !self.has_bitmap {
            return Ok(());
        }
        for slot in self.slots.iter() {
            fetch(&mut *self.calls, NAME, slot, &mut self.log)?;
            self.pending.or_log(slot.pages, &self.log);
        }
        Ok(())
    }

    fn harvest(&mut self, into: &DirtyBitmap) -> Result<(), DirtyError> {
        let collected = self.collect().and_then(|()| self.collect_bitmap());
        into.or_from(&self.pending.take());
        collected?;
        self.lost.take().map_or(Ok(()), Err)
    }

    fn change(&mut self, new: SlotTable, changed: &DirtyBitmap) -> Result<(), DirtyError> {
        // Entries name slots by number, which may mean another one from now on.
        let collected = self.collect();
        for run in self.slots.layout.shared_runs(&new.layout) {
            changed.or_moved(&self.pending, run.pages, run.other);
        }
        self.pending = DirtyBitmap::new(new.layout.page_count());
        self.slots = new;
        collected?;
        if self.is_started {
            self.calls.set_logging(NAME, &self.slots, true)?;
        }
        Ok(())
    }
}

impl SlotTable {
    /// The image page of an entry, if there is one.
    fn place(&self, named: Named) -> Option<PageIndex> {
        let slot = self.get(named.slot)?;
        let inside = named.offset < slot.pages.count;
        inside.then(|| PageIndex(slot.pages.start.0 + named.offset))
    }
}

impl DirtySource for KvmDirtyRing {
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
        let mut shared = lock(&self.shared);
        let Rings { calls, slots, .. } = &mut *shared;
        calls.set_logging(NAME, slots, true)?;
        shared.is_started = true;
        Ok(())
    }

    fn harvest(&mut self, into: &DirtyBitmap) -> Result<(), DirtyError> {
        lock(&self.shared).harvest(into)
    }

    fn peek(&mut self, into: &DirtyBitmap) -> Result<(), DirtyError> {
        lock(&self.shared).peek(into)
    }

    fn stop(&mut self) -> Result<(), DirtyError> {
        let mut shared = lock(&self.shared);
        shared.is_started = false;
        let Rings { calls, slots, .. } = &mut *shared;
        calls.set_logging(NAME, slots, false)?;
        // Nobody asks for what is left; a ring that stays full would stop its vCPU for ever.
        let collected = shared.collect();
        drop(shared.pending.take());
        shared.lost = None;
        collected
    }

    fn change_layout(
        &mut self,
        layout: &MemoryLayout,
        changed: &DirtyBitmap,
    ) -> Result<(), DirtyError> {
        let mut shared = lock(&self.shared);
        let new = next_slots(NAME, &self.handle, &shared.slots, layout, changed)?;
        shared.change(new, changed)?;
        self.layout = layout.clone();
        Ok(())
    }
}

impl fmt::Debug for DirtyRings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirtyRings")
            .field("entries", &self.entries)
            .field("has_bitmap", &self.has_bitmap)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for KvmDirtyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvmDirtyRing").finish_non_exhaustive()
    }
}

impl fmt::Debug for VcpuRings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VcpuRings")
            .field("entries", &self.entries)
            .finish_non_exhaustive()
    }
}

fn map(fd: BorrowedFd<'_>, vcpu: usize, entries: u32) -> Result<Box<dyn Entries>, KvmError> {
    let mapped = Mapping::new(fd, entries);
    let mapped = mapped.map_err(|source| KvmError::MapRing { vcpu, source })?;
    Ok(Box::new(mapped))
}

/// A panic in between leaves bits set, or the error that stands for them; none is cleared before
/// it was given out.
fn lock(shared: &Mutex<Rings>) -> MutexGuard<'_, Rings> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
