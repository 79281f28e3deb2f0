//! State and dirty pages of a machine under a filter made from the list of system calls.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
// UNSAFETY: descriptors and memory slots of machines that are made here.
#![expect(
    unsafe_code,
    clippy::unwrap_used,
    reason = "the tests vouch for machines that they made, and fail by panicking"
)]

use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd};

use hypervisor_bridge::testing::fake_paused;
use hypervisor_bridge::{ClockPolicy, StateCapture, StateRestore};
use hypervisor_kvm::{
    DirtyLogMode, DirtyRings, Handles, KernelDevices, KvmDirtyLog, KvmMachine, KvmOptions,
    MemorySlot, syscalls,
};
use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_pit_config, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use snapshot_format::{MemoryLayout, SectionOffers};
use snapshot_memory::skip::skip;
use snapshot_memory::syscalls::PROCESS;
use snapshot_memory::testing::under_filter;
use snapshot_memory::{DirtyBitmap, DirtySource, GuestMemorySource, MappedMemory, MappingOptions};

const LEN_BYTES: u64 = 1 << 20;

/// A machine with one vCPU. It is not taken down under the filter: that is the VMM's own affair.
struct Machine {
    kvm: Kvm,
    vcpus: [VcpuFd; 1],
    vm: VmFd,
    memory: MappedMemory,
}

impl Machine {
    fn new(kvm: Kvm) -> ManuallyDrop<Self> {
        let vm = kvm.create_vm().unwrap();
        vm.set_tss_address(0xfffb_d000).unwrap();
        vm.create_irq_chip().unwrap();
        vm.create_pit2(kvm_pit_config::default()).unwrap();
        let layout = MemoryLayout::single(LEN_BYTES).unwrap();
        let memory = MappedMemory::new(layout, MappingOptions::default()).unwrap();
        register(&vm, &memory);
        let vcpus = [vm.create_vcpu(0).unwrap()];
        let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).unwrap();
        vcpus[0].set_cpuid2(&cpuid).unwrap();
        ManuallyDrop::new(Self {
            kvm,
            vcpus,
            vm,
            memory,
        })
    }

    fn adapter(&self) -> KvmMachine<'_> {
        // SAFETY: the descriptors are what they are passed as, and nobody runs the vCPU.
        let handles = unsafe { Handles::from_raw(&self.kvm, &self.vm, &self.vcpus) };
        KvmMachine::new(handles, KvmOptions::new(KernelDevices::ALL)).unwrap()
    }
}

/// Gives a machine its memory, neither of which is ever dropped.
fn register(vm: &VmFd, memory: &MappedMemory) {
    let region = kvm_userspace_memory_region {
        memory_size: LEN_BYTES,
        userspace_addr: memory.base().addr().get() as u64,
        ..Default::default()
    };
    // SAFETY: the mapping is that long, and it stays: callers drop neither.
    unsafe { vm.set_user_memory_region(region) }.unwrap();
}

/// Two machines like each other; `None` without KVM.
fn machines() -> Option<[ManuallyDrop<Machine>; 2]> {
    let open = || Kvm::new().map_err(|error| skip("kvm", &error.to_string()));
    Some([Machine::new(open().ok()?), Machine::new(open().ok()?)])
}

// spec: EMB-01
#[test]
fn dirty_log() {
    if machines().is_none() {
        return;
    }
    under_filter(
        "dirty_log",
        &[PROCESS, syscalls::STATE],
        machines,
        |machines| {
            let [machine, _] = machines.unwrap();
            let slot = MemorySlot {
                slot: 0,
                flags: 0,
                guest_address: 0,
                len_bytes: LEN_BYTES,
                host_address: machine.memory.base().addr().get() as u64,
            };
            // SAFETY: the machine is there as long as the borrow.
            let vm = unsafe { BorrowedFd::borrow_raw(machine.vm.as_raw_fd()) };
            let vm = vm.try_clone_to_owned().unwrap();
            let layout = machine.memory.layout().clone();
            // SAFETY: this is the machine, and its one slot as it was registered.
            let log = unsafe { KvmDirtyLog::new(vm, layout, &[slot], DirtyLogMode::GetAndClear) };
            let mut log = log.unwrap();
            log.start().unwrap();
            log.harvest(&DirtyBitmap::new(LEN_BYTES / 4096)).unwrap();
            log.stop().unwrap();
        },
    );
}

/// A machine whose vCPU will have a ring.
struct RingMachine {
    vm: VmFd,
    memory: MappedMemory,
}

// spec: EMB-01
#[test]
fn dirty_ring() {
    let open = || Kvm::new().map_err(|error| skip("kvm", &error.to_string()));
    let make = || {
        let vm = open().ok()?.create_vm().unwrap();
        let layout = MemoryLayout::single(LEN_BYTES).unwrap();
        let memory = MappedMemory::new(layout, MappingOptions::default()).unwrap();
        Some(ManuallyDrop::new(RingMachine { vm, memory }))
    };
    if make().is_none() {
        return;
    }
    let lists = [PROCESS, syscalls::RING];
    under_filter("dirty_ring", &lists, make, |machine| {
        let RingMachine { vm, memory } = &*machine.unwrap();
        // SAFETY: the machine is there as long as the borrow.
        let fd = unsafe { BorrowedFd::borrow_raw(vm.as_raw_fd()) };
        let fd = fd.try_clone_to_owned().unwrap();
        // SAFETY: this is a machine without vCPUs and slots.
        let rings = unsafe { DirtyRings::enable(fd, 4096) }.unwrap();
        let slot = MemorySlot {
            slot: 0,
            flags: 0,
            guest_address: 0,
            len_bytes: LEN_BYTES,
            host_address: memory.base().addr().get() as u64,
        };
        register(vm, memory);
        let vcpus = ManuallyDrop::new([vm.create_vcpu(0).unwrap()]);
        let layout = memory.layout().clone();
        // SAFETY: these are its one vCPU and its one slot.
        let rings = unsafe { rings.map(&*vcpus, layout, &[slot]) }.unwrap();
        let mut source = rings.source();
        source.start().unwrap();
        rings.on_full().unwrap();
        source.harvest(&DirtyBitmap::new(LEN_BYTES / 4096)).unwrap();
        source.stop().unwrap();
    });
}

// spec: EMB-01
#[test]
fn state() {
    if machines().is_none() {
        return;
    }
    under_filter("state", &[PROCESS, syscalls::STATE], machines, |machines| {
        let [source, target] = machines.unwrap();
        let (paused, mut from, mut to) = (fake_paused(), source.adapter(), target.adapter());
        from.notify_paused(0, &paused).unwrap();
        let mut sections = vec![from.capture_vcpu(0, &paused).unwrap()];
        sections.extend(from.capture_vm(&paused).unwrap());
        to.host().unwrap();
        let mut offers = SectionOffers::new(sections);
        let reasons = to.take(&mut offers, ClockPolicy::Frozen).unwrap();
        assert_eq!(reasons, []);
        to.prepare().unwrap();
        to.restore_vcpu(0).unwrap();
        to.restore_vm().unwrap();
    });
}
