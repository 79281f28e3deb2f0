//! Machines to take state from and to bring it back into.

// UNSAFETY: descriptors and memory slots of machines that are made here, requests that kvm-ioctls
// has no call for, and signals to their threads.
#![expect(unsafe_code, reason = "the tests vouch for machines that they made")]

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::Once;

use hypervisor_bridge::testing::fake_paused;
use hypervisor_bridge::{ClockPolicy, StateCapture, StateRestore, StepError};
use hypervisor_kvm::{Handles, KvmMachine, KvmOptions, RestoreReport};
use kvm_bindings::{
    KVM_MAX_CPUID_ENTRIES, Msrs, kvm_enable_cap, kvm_msr_entry, kvm_pit_config,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use snapshot_format::state::{Fingerprint, Reason, VcpuX86, VmX86};
use snapshot_format::{MemoryLayout, SectionOffers, SectionPayload};
use snapshot_memory::skip::skip;
use snapshot_memory::{MappedMemory, MappingOptions};

/// Bytes of memory, from address 0.
pub(super) const MEMORY_BYTES: u64 = 64 << 10;

/// A machine whose vCPUs stand at the reset vector, or wait to be started.
pub(super) struct Machine {
    pub(super) vcpus: Vec<VcpuFd>,
    pub(super) vm: VmFd,
    kvm: Kvm,
    pub(super) memory: MappedMemory,
}

/// Everything that was saved of a machine.
pub(super) struct Saved {
    pub(super) sections: Vec<SectionPayload>,
    pub(super) memory: Vec<u8>,
}

impl Saved {
    pub(super) fn vcpu(&self, index: usize) -> VcpuX86 {
        self.sections[index].value().unwrap()
    }

    pub(super) fn vm(&self) -> VmX86 {
        let mut values = self.sections.iter().map(SectionPayload::value);
        values.find_map(Result::ok).unwrap()
    }

    /// The same with another vCPU in this place.
    pub(super) fn change(&mut self, index: usize, change: impl FnOnce(&mut VcpuX86)) {
        let mut vcpu = self.vcpu(index);
        change(&mut vcpu);
        let instance = self.sections[index].instance;
        self.sections[index] = SectionPayload::of(instance, &vcpu);
    }
}

/// A machine with every controller in the kernel; `None` without KVM.
pub(super) fn machine(vcpu_count: u64) -> Option<Machine> {
    machine_with(vcpu_count, |vm| {
        vm.create_irq_chip().unwrap();
        vm.create_pit2(kvm_pit_config::default()).unwrap();
    })
}

/// A machine that is made ready by `prepare` before it has vCPUs; `None` without KVM.
pub(super) fn machine_with(vcpu_count: u64, prepare: impl FnOnce(&VmFd)) -> Option<Machine> {
    let kvm = match Kvm::new() {
        Ok(kvm) => kvm,
        Err(error) => {
            skip("kvm", &error.to_string());
            return None;
        }
    };
    let vm = kvm.create_vm().unwrap();
    vm.set_tss_address(0xfffb_d000).unwrap();
    prepare(&vm);
    let layout = MemoryLayout::single(MEMORY_BYTES).unwrap();
    let memory = MappedMemory::new(layout, MappingOptions::default()).unwrap();
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: MEMORY_BYTES,
        userspace_addr: memory.base().as_ptr() as u64,
    };
    // SAFETY: the mapping is that long, and `Machine` drops its vCPUs before it.
    unsafe { vm.set_user_memory_region(region) }.unwrap();
    let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).unwrap();
    let vcpus = (0..vcpu_count).map(|id| {
        let vcpu = vm.create_vcpu(id).unwrap();
        vcpu.set_cpuid2(&cpuid).unwrap();
        vcpu
    });
    Some(Machine {
        vcpus: vcpus.collect(),
        kvm,
        vm,
        memory,
    })
}

/// Enables a capability that takes one argument.
pub(super) fn enable(vm: &VmFd, cap: u32, argument: u64) {
    let mut enable = kvm_enable_cap {
        cap,
        ..Default::default()
    };
    enable.args[0] = argument;
    vm.enable_cap(&enable).unwrap();
}

/// Gives a vCPU machine check banks (`KVM_X86_SETUP_MCE`).
pub(super) fn set_up_machine_check(vcpu: &VcpuFd, capabilities: u64) {
    const KVM_X86_SETUP_MCE: u64 = 0x4008_ae9c;
    // SAFETY: the request reads 64 bits, which live as long as the call.
    let result =
        unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_X86_SETUP_MCE, &raw const capabilities) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

pub(super) fn msr(vcpu: &VcpuFd, index: u32) -> Option<u64> {
    let entry = kvm_msr_entry {
        index,
        ..Default::default()
    };
    let mut msrs = Msrs::from_entries(&[entry]).unwrap();
    let read = vcpu.get_msrs(&mut msrs).unwrap();
    (read == 1).then(|| msrs.as_slice()[0].data)
}

pub(super) fn set_msr(vcpu: &VcpuFd, index: u32, data: u64) {
    let entry = kvm_msr_entry {
        index,
        data,
        ..Default::default()
    };
    let written = vcpu.set_msrs(&Msrs::from_entries(&[entry]).unwrap());
    assert_eq!(written.unwrap(), 1, "MSR {index:#x} = {data:#x}");
}

/// Register of a local APIC: spurious vector with the enable bit.
pub(super) const SVR: usize = 0xf0;

/// Writes a register of a vCPU's local APIC.
pub(super) fn set_apic(machine: &Machine, vcpu: usize, registers: &[(usize, u32)]) {
    let mut page = machine.vcpus[vcpu].get_lapic().unwrap();
    for (at, value) in registers {
        for (byte, value) in page.regs[*at..].iter_mut().zip(value.to_le_bytes()) {
            *byte = value.cast_signed();
        }
    }
    machine.vcpus[vcpu].set_lapic(&page).unwrap();
}

/// Reads a register of a vCPU's local APIC.
pub(super) fn apic(machine: &Machine, vcpu: usize, at: usize) -> u32 {
    let page = machine.vcpus[vcpu].get_lapic().unwrap();
    let bytes: Vec<u8> = page.regs[at..at + 4]
        .iter()
        .map(|b| b.cast_unsigned())
        .collect();
    u32::from_le_bytes(bytes.try_into().unwrap())
}

/// The descriptors of a machine whose vCPUs are lent to their threads.
pub(super) struct Descriptors {
    kvm: RawFd,
    vm: RawFd,
    vcpus: Vec<RawFd>,
}

impl Descriptors {
    /// The adapter; the machine must be alive, and stand still while it is used.
    pub(super) fn adapter(&self, options: KvmOptions) -> KvmMachine<'_> {
        // SAFETY: the machine that they are of outlives the threads that lend them.
        let borrow = |fd: &RawFd| unsafe { BorrowedFd::borrow_raw(*fd) };
        let vcpus = self.vcpus.iter().map(borrow).collect();
        // SAFETY: they are what they are passed as, and nobody runs the vCPUs.
        let handles = unsafe { Handles::new(borrow(&self.kvm), borrow(&self.vm), vcpus) };
        KvmMachine::new(handles, options).unwrap()
    }
}

impl Machine {
    pub(super) fn descriptors(&self) -> Descriptors {
        Descriptors {
            kvm: self.kvm.as_raw_fd(),
            vm: self.vm.as_raw_fd(),
            vcpus: self.vcpus.iter().map(AsRawFd::as_raw_fd).collect(),
        }
    }

    pub(super) fn save(&self, options: &KvmOptions) -> Saved {
        save(&self.descriptors(), options, &self.memory)
    }

    /// Every reason against bringing back what was saved. Nothing is written.
    pub(super) fn reasons(&self, saved: &Saved, options: &KvmOptions) -> Vec<Reason> {
        let descriptors = self.descriptors();
        let mut adapter = descriptors.adapter(options.clone());
        let mut offers = SectionOffers::new(saved.sections.clone());
        let needed: Fingerprint = offers.take(0).unwrap();
        let mut reasons = needed.check(&adapter.host().unwrap());
        reasons.extend(adapter.take(&mut offers, ClockPolicy::Frozen).unwrap());
        reasons
    }

    /// Brings back what was saved, in the order of the bridge.
    pub(super) fn restore(
        &self,
        saved: &Saved,
        options: &KvmOptions,
        clock: ClockPolicy,
    ) -> Result<RestoreReport, StepError> {
        let descriptors = self.descriptors();
        let mut adapter = descriptors.adapter(options.clone());
        let mut offers = SectionOffers::new(saved.sections.clone());
        let _: Fingerprint = offers.take(0)?;
        let reasons = adapter.take(&mut offers, clock)?;
        assert_eq!(reasons, []);
        offers.finish()?;
        self.memory.write(0, &saved.memory)?;
        adapter.prepare()?;
        for vcpu in 0..self.vcpus.len() {
            adapter.restore_vcpu(vcpu)?;
        }
        adapter.restore_vm()?;
        Ok(adapter.report().clone())
    }
}

/// Saves a machine that stands still.
pub(super) fn save(
    descriptors: &Descriptors,
    options: &KvmOptions,
    memory: &MappedMemory,
) -> Saved {
    let mut adapter = descriptors.adapter(options.clone());
    let paused = fake_paused();
    let count = StateCapture::vcpu_count(&adapter);
    let mut sections: Vec<_> = (0..count)
        .map(|vcpu| adapter.capture_vcpu(vcpu, &paused).unwrap())
        .collect();
    sections.extend(adapter.capture_vm(&paused).unwrap());
    Saved {
        sections,
        memory: contents(memory),
    }
}

/// All of a machine's memory.
pub(super) fn contents(memory: &MappedMemory) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(MEMORY_BYTES).unwrap()];
    memory.read(0, &mut bytes).unwrap();
    bytes
}

/// The calling thread, to be kicked.
pub(super) fn this_thread() -> libc::pthread_t {
    // SAFETY: it has no requirement.
    unsafe { libc::pthread_self() }
}

/// Interrupts `KVM_RUN` of a thread that has not been joined.
pub(super) fn kick(thread: libc::pthread_t) {
    extern "C" fn nothing(_: libc::c_int) {}
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // SAFETY: all zeroes is a value of this C structure.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = nothing as *const () as libc::sighandler_t;
        // SAFETY: the handler does nothing, so it is safe in any context.
        unsafe { libc::sigaction(libc::SIGRTMIN(), &raw const action, std::ptr::null_mut()) };
    });
    // SAFETY: by the caller's word the thread's id is valid, also after its end.
    unsafe { libc::pthread_kill(thread, libc::SIGRTMIN()) };
}
