//! A machine with one vCPU that writes where it is told to.

// UNSAFETY: descriptors and memory slots of machines that are made here.
#![expect(unsafe_code, reason = "the tests vouch for machines that they made")]

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::memory::{Backing, POOL_PAGES, Pool, View};

use hypervisor_kvm::{
    DirtyLogMode, DirtyRings, KvmDirtyLog, KvmError, KvmSlots, MemorySlot, VcpuRings,
};
use kvm_bindings::{kvm_regs, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use snapshot_format::{GuestAddress, MemoryLayout, MemoryRegion, PAGE_BYTES, PageIndex};
use snapshot_memory::skip::skip;

/// Where the program is, in a slot of its own that no layout holds.
const PROGRAM_AT: u64 = 0x80_0000;
const PROGRAM_SLOT: u32 = 500;

pub(super) struct Machine {
    pub(super) vcpu: VcpuFd,
    pub(super) vm: VmFd,
    pub(super) layout: MemoryLayout,
    slots: Vec<MemorySlot>,
    next_slot: u32,
    pool: Arc<Pool>,
}

fn layout(regions: &[(u64, u64)]) -> MemoryLayout {
    let region = |&(start, pages): &(u64, u64)| MemoryRegion {
        start: GuestAddress(start * PAGE_BYTES),
        len_bytes: pages * PAGE_BYTES,
    };
    MemoryLayout::new(regions.iter().map(region).collect()).unwrap()
}

/// KVM, or a skip.
pub(super) fn kvm() -> Option<Kvm> {
    Kvm::new()
        .inspect_err(|error| skip("kvm", &error.to_string()))
        .ok()
}

impl Machine {
    /// A machine whose vCPU stands in real mode; `before_vcpus` is told of it before it has one.
    pub(super) fn new(kvm: &Kvm, backing: Backing, before_vcpus: impl FnOnce(&VmFd)) -> Self {
        let layout = &first_layout();
        let vm = kvm.create_vm().unwrap();
        vm.set_tss_address(0xfffb_d000).unwrap();
        before_vcpus(&vm);
        let vcpu = vm.create_vcpu(0).unwrap();
        let mut machine = Self {
            vcpu,
            vm,
            layout: layout.clone(),
            slots: Vec::new(),
            next_slot: 0,
            pool: Arc::new(Pool::new(backing)),
        };
        machine.register(MemorySlot {
            slot: PROGRAM_SLOT,
            flags: 0,
            guest_address: PROGRAM_AT,
            len_bytes: PAGE_BYTES,
            host_address: machine.pool.address(POOL_PAGES),
        });
        machine.change(layout);
        machine
    }

    /// The memory of now, for sources of this process.
    pub(super) fn memory(&self) -> Arc<View> {
        Arc::new(View {
            layout: self.layout.clone(),
            pool: self.pool.clone(),
        })
    }

    /// The log of the slots that back the layout.
    pub(super) fn dirty_log(&self, mode: DirtyLogMode) -> KvmDirtyLog {
        let (vm, layout) = (duplicate(&self.vm), self.layout.clone());
        // SAFETY: these are the slots as they are registered.
        let log = unsafe { KvmDirtyLog::new(vm, layout, &self.slots, mode) };
        log.unwrap()
    }

    /// Maps the rings that were enabled before there was a vCPU.
    pub(super) fn map_rings(&self, rings: DirtyRings) -> VcpuRings {
        let vcpus = std::slice::from_ref(&self.vcpu);
        // SAFETY: this is the only vCPU, and these are the slots as they are registered.
        let made = unsafe { rings.map(vcpus, self.layout.clone(), &self.slots) };
        made.unwrap()
    }

    /// Changes the slots to `layout`, and tells the source.
    pub(super) fn change_for(&mut self, layout: &MemoryLayout, source: &KvmSlots) {
        self.change(layout);
        // SAFETY: these are the slots as they are registered.
        unsafe { source.replace(self.slots.clone()) };
    }

    /// Deletes the slots of regions that are not in `layout` as they are, and adds one for each
    /// that is new. A slot that keeps its place keeps its number.
    pub(super) fn change(&mut self, layout: &MemoryLayout) {
        let stays = |slot: &MemorySlot| {
            let mut regions = layout.regions().iter();
            regions.any(|r| (r.start.0, r.len_bytes) == (slot.guest_address, slot.len_bytes))
        };
        let (kept, gone): (Vec<_>, Vec<_>) = self.slots.iter().partition(|slot| stays(slot));
        for slot in gone {
            self.register(MemorySlot {
                len_bytes: 0,
                ..slot
            });
        }
        self.slots = kept;
        for region in layout.regions() {
            let is_there = |slot: &MemorySlot| slot.guest_address == region.start.0;
            if self.slots.iter().any(is_there) {
                continue;
            }
            let slot = MemorySlot {
                slot: self.next_slot,
                flags: 0,
                guest_address: region.start.0,
                len_bytes: region.len_bytes,
                host_address: self.pool.address(region.start.page().0),
            };
            self.next_slot += 1;
            self.register(slot);
            self.slots.push(slot);
        }
        self.layout = layout.clone();
    }

    fn register(&self, slot: MemorySlot) {
        let region = kvm_userspace_memory_region {
            slot: slot.slot,
            flags: slot.flags,
            guest_phys_addr: slot.guest_address,
            memory_size: slot.len_bytes,
            userspace_addr: slot.host_address,
        };
        // SAFETY: the slot lies in the pool, and `Machine` drops its vCPU and machine before it.
        unsafe { self.vm.set_user_memory_region(region) }.unwrap();
    }

    /// Lets the vCPU write one byte.
    pub(super) fn write(
        &mut self,
        page: PageIndex,
        byte: usize,
        on_full: &mut (dyn FnMut() + Send),
    ) {
        let address = address(&self.layout, page);
        write_byte(&mut self.vcpu, address, byte, on_full);
    }

    /// Lets the vCPU write to each of `pages` on its own thread, while `harvest` runs on this one.
    pub(super) fn write_during(
        &mut self,
        pages: &[PageIndex],
        on_full: &mut (dyn FnMut() + Send),
        harvest: &mut dyn FnMut(),
    ) {
        let done = AtomicBool::new(false);
        let (vcpu, layout) = (&mut self.vcpu, &self.layout);
        thread::scope(|scope| {
            scope.spawn(|| {
                for page in pages {
                    write_byte(vcpu, address(layout, *page), 7, on_full);
                }
                done.store(true, Ordering::Release);
            });
            while !done.load(Ordering::Acquire) {
                harvest();
            }
        });
    }
}

/// Enables the smallest dirty rings that the host takes on a machine without vCPUs; `None` where
/// it takes none.
pub(super) fn enable_rings(vm: &VmFd) -> Option<DirtyRings> {
    // Of 256 entries the kernel keeps 64 back; of 1024 another 512 where the CPU logs writes.
    for entries in [256, 1024] {
        // SAFETY: it is a machine.
        match unsafe { DirtyRings::enable(duplicate(vm), entries) } {
            Ok(rings) => return Some(rings),
            Err(KvmError::Ioctl { .. }) => {}
            Err(error) => {
                skip("kvm", &error.to_string());
                return None;
            }
        }
    }
    unreachable!("rings of 1024 entries are refused")
}

fn address(layout: &MemoryLayout, page: PageIndex) -> u64 {
    layout.guest_page(page).unwrap().address().unwrap().0
}

/// Writes one byte, and answers every full ring.
fn write_byte(vcpu: &mut VcpuFd, address: u64, byte: usize, on_full: &mut (dyn FnMut() + Send)) {
    let mut sregs = vcpu.get_sregs().unwrap();
    (sregs.cs.base, sregs.cs.selector) = (PROGRAM_AT, 0);
    sregs.es.base = address;
    vcpu.set_sregs(&sregs).unwrap();
    let regs = kvm_regs {
        rax: 0x55,
        rbx: byte as u64,
        rflags: 2,
        ..Default::default()
    };
    vcpu.set_regs(&regs).unwrap();
    loop {
        match vcpu.run().unwrap() {
            VcpuExit::IoOut(0x10, _) => return,
            VcpuExit::Unsupported(kvm_bindings::KVM_EXIT_DIRTY_RING_FULL) => on_full(),
            exit => unreachable!("the program only writes: {exit:?}"),
        }
    }
}

fn duplicate(fd: &impl AsRawFd) -> OwnedFd {
    // SAFETY: the owner is borrowed and keeps it open.
    let fd = unsafe { BorrowedFd::borrow_raw(fd.as_raw_fd()) };
    fd.try_clone_to_owned().unwrap()
}

/// No region is a multiple of 64 pages; there is a hole between them.
fn first_layout() -> MemoryLayout {
    layout(&[(0, 700), (1000, 130)])
}

/// Plugs behind a hole, unplugs, plugs again, grows, shrinks, and moves.
pub(super) fn other_layouts() -> Vec<MemoryLayout> {
    vec![
        layout(&[(0, 700), (1000, 130), (1500, 65)]),
        layout(&[(0, 700), (1500, 65)]),
        layout(&[(0, 700), (1000, 130), (1500, 65)]),
        layout(&[(0, 900), (1000, 130)]),
        layout(&[(3, 200), (1000, 1), (1003, 127)]),
        layout(&[(100, 700), (1100, 130)]),
    ]
}
