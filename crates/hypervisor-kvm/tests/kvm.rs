//! Against the KVM of this host.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
// UNSAFETY: descriptors and memory slots of machines that are made here.
#![expect(
    unsafe_code,
    clippy::unwrap_used,
    reason = "the tests vouch for machines that they made, and fail by panicking"
)]

use hypervisor_bridge::testing::{capture_state_suite, fake_paused, state_round_trip_suite};
use hypervisor_bridge::{ClockPolicy, StateCapture, StateRestore};
use hypervisor_kvm::{Handles, KernelDevices, KvmMachine, KvmOptions, MemorySlot};
use kvm_bindings::{
    KVM_MAX_CPUID_ENTRIES, kvm_debugregs, kvm_pit_config, kvm_regs, kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use snapshot_format::state::{Fingerprint, Reason, ReasonKind, VcpuX86, VmX86};
use snapshot_format::{GuestAddress, MemoryLayout, MemoryRegion, SectionOffers, SectionPayload};
use snapshot_memory::skip::skip;
use snapshot_memory::{GuestMemorySource, MappedMemory, MappingOptions};

struct Machine {
    kvm: Kvm,
    vcpus: Vec<VcpuFd>,
    vm: VmFd,
    _memory: MappedMemory,
}

/// Two regions with a hole between; neither a multiple of 64 pages.
fn layout() -> MemoryLayout {
    let region = |start, pages: u64| MemoryRegion {
        start: GuestAddress(start),
        len_bytes: pages * 4096,
    };
    MemoryLayout::new(vec![region(0, 65), region(0x10_0000, 70)]).unwrap()
}

fn slots(memory: &MappedMemory) -> Vec<MemorySlot> {
    let mut host_address = memory.base().as_ptr() as u64;
    let mut slots = Vec::new();
    for (slot, region) in (0..).zip(memory.layout().regions()) {
        slots.push(MemorySlot {
            slot,
            flags: 0,
            guest_address: region.start.0,
            len_bytes: region.len_bytes,
            host_address,
        });
        host_address += region.len_bytes;
    }
    slots
}

/// A machine whose vCPUs stand in real mode at address 0; `None` without KVM.
fn machine(vcpu_count: u64) -> Option<Machine> {
    let kvm = match Kvm::new() {
        Ok(kvm) => kvm,
        Err(error) => {
            skip("kvm", &error.to_string());
            return None;
        }
    };
    let vm = kvm.create_vm().unwrap();
    vm.set_tss_address(0xfffb_d000).unwrap();
    vm.create_irq_chip().unwrap();
    vm.create_pit2(kvm_pit_config::default()).unwrap();
    let memory = MappedMemory::new(layout(), MappingOptions::default()).unwrap();
    for slot in slots(&memory) {
        let region = kvm_userspace_memory_region {
            slot: slot.slot,
            flags: slot.flags,
            guest_phys_addr: slot.guest_address,
            memory_size: slot.len_bytes,
            userspace_addr: slot.host_address,
        };
        // SAFETY: the mapping is that long, and `Machine` drops its vCPUs before it.
        unsafe { vm.set_user_memory_region(region) }.unwrap();
    }
    let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).unwrap();
    let vcpus = (0..vcpu_count).map(|id| {
        let vcpu = vm.create_vcpu(id).unwrap();
        vcpu.set_cpuid2(&cpuid).unwrap();
        vcpu
    });
    Some(Machine {
        kvm,
        vcpus: vcpus.collect(),
        vm,
        _memory: memory,
    })
}

impl Machine {
    fn adapter(&self) -> KvmMachine<'_> {
        // SAFETY: the descriptors are what they are passed as, and nobody runs the vCPUs.
        let handles = unsafe { Handles::from_raw(&self.kvm, &self.vm, &self.vcpus) };
        KvmMachine::new(handles, KvmOptions::new(KernelDevices::ALL)).unwrap()
    }
}

#[test]
fn a_machine_is_captured_and_accepted_by_its_own_host() {
    let Some(machine) = machine(2) else {
        return;
    };
    capture_state_suite(&mut machine.adapter(), &fake_paused()).unwrap();
}

/// Words of the XSAVE area: the low half of its header's first field, and register XMM7.
const XSTATE_BV: usize = 128;
const XMM7: std::ops::Range<usize> = 68..72;

/// Takes out what moves on its own: the clock, counters that follow it, and what KVM computes.
fn settle(section: &mut SectionPayload) {
    if let Ok(mut vcpu) = section.value::<VcpuX86>() {
        vcpu.tsc_offset = None;
        vcpu.msrs.retain(|msr| msr.index != 0x10);
        *section = SectionPayload::of(section.instance, &vcpu);
    } else if let Ok(mut vm) = section.value::<VmX86>() {
        vm.clock = None;
        for channel in vm.pit.iter_mut().flat_map(|pit| &mut pit.channels) {
            channel.count_load_time = 0;
        }
        *section = SectionPayload::of(section.instance, &vm);
    }
}

#[test]
fn every_kind_of_state_arrives_in_another_machine() {
    let (Some(source), Some(target)) = (machine(2), machine(2)) else {
        return;
    };
    for (number, vcpu) in (1..).zip(&source.vcpus) {
        let regs = kvm_regs {
            rax: number,
            r15: u64::MAX - number,
            rip: 0x1234,
            rflags: 2,
            ..Default::default()
        };
        vcpu.set_regs(&regs).unwrap();
        let mut xsave = vcpu.get_xsave().unwrap();
        // Legacy x87 and SSE are not in their initial state: the header says so.
        xsave.region[XSTATE_BV] |= 3;
        xsave.region[XMM7].fill(0xa5a5_0000 | u32::try_from(number).unwrap());
        // SAFETY: no larger area than that of the structure was permitted.
        unsafe { vcpu.set_xsave(&xsave) }.unwrap();
        let debug = kvm_debugregs {
            db: [1, 2, 3, number],
            dr6: 0xffff_0ff0,
            dr7: 0x400,
            ..Default::default()
        };
        vcpu.set_debug_regs(&debug).unwrap();
    }
    let mut pit = source.vm.get_pit2().unwrap();
    pit.channels[0].mode = 2;
    pit.channels[0].count = 0x1000;
    source.vm.set_pit2(&pit).unwrap();

    let mut captured = source.adapter();
    let mut restored = target.adapter();
    state_round_trip_suite(&mut captured, &mut restored, &fake_paused(), &mut settle).unwrap();

    let regs = target.vcpus[1].get_regs().unwrap();
    assert_eq!((regs.rax, regs.r15, regs.rip), (2, u64::MAX - 2, 0x1234));
    let xsave = target.vcpus[1].get_xsave().unwrap();
    assert_eq!(xsave.region[XMM7], [0xa5a5_0002; 4]);
    assert_eq!(target.vcpus[0].get_debug_regs().unwrap().db, [1, 2, 3, 1]);
}

#[test]
fn a_tsc_goes_on_from_where_it_was() {
    let (Some(source), Some(target)) = (machine(1), machine(1)) else {
        return;
    };
    let paused = fake_paused();
    let mut from = source.adapter();
    let mut sections = vec![from.capture_vcpu(0, &paused).unwrap()];
    sections.extend(from.capture_vm(&paused).unwrap());
    let saved: VcpuX86 = sections[0].value().unwrap();
    let tsc = |vcpu: &VcpuX86| {
        let found = vcpu.msrs.iter().find(|msr| msr.index == 0x10);
        found.unwrap().value
    };
    // Long enough to be told from the time that a restore takes.
    std::thread::sleep(std::time::Duration::from_millis(300));
    let mut to = target.adapter();
    let mut offers = SectionOffers::new(sections);
    let _: Fingerprint = offers.take(0).unwrap();
    to.take(&mut offers, ClockPolicy::Frozen).unwrap();
    to.prepare().unwrap();
    to.restore_vcpu(0).unwrap();
    let restored = to.save_vcpu(0, &paused).unwrap();
    if restored.tsc_offset == saved.tsc_offset {
        skip("tsc-offset", "the KVM of this host keeps no TSC offset");
        return;
    }
    let passed = tsc(&restored).wrapping_sub(tsc(&saved));
    let ticks_in_200_ms = u64::from(saved.tsc_khz) * 200;
    assert!(
        passed < ticks_in_200_ms,
        "the TSC went from {} to {}",
        tsc(&saved),
        tsc(&restored)
    );
}

#[test]
fn a_snapshot_of_another_host_is_refused_with_every_reason() {
    let Some(machine) = machine(1) else {
        return;
    };
    let mut adapter = machine.adapter();
    let mut foreign = adapter.fingerprint(&fake_paused()).unwrap();
    foreign.vendor = "HygonGenuine".into();
    foreign.tsc_khz = 1_000;
    foreign.msrs.push(0xdead_beef);
    let leaf = foreign.cpuid.iter_mut().find(|entry| entry.function == 7);
    leaf.unwrap().ecx = u32::MAX;
    let host = adapter.host().unwrap();
    let kinds: Vec<_> = foreign.check(&host).iter().map(Reason::kind).collect();
    assert!(kinds.contains(&ReasonKind::Vendor), "{kinds:?}");
    assert!(kinds.contains(&ReasonKind::Cpuid), "{kinds:?}");
    assert!(kinds.contains(&ReasonKind::Msr), "{kinds:?}");
    let scales = host.tsc_scaling != 0;
    assert_eq!(
        kinds.contains(&ReasonKind::TscFrequency),
        !scales,
        "{kinds:?}"
    );
}
