//! Creating a KVM machine.

// UNSAFETY: memory slots, and descriptors that are borrowed from kvm-ioctls.
#![expect(
    unsafe_code,
    reason = "the kernel is told of memory that it may write, and of descriptors"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use hypervisor_bridge::{GenerationEvent, RaiseEvent, StateRestore, StepError};
use hypervisor_kvm::{
    DirtyLogMode, Handles, KernelDevices, KvmDirtyLog, KvmMachine, KvmOptions, MemorySlot,
};
use kvm_bindings::{
    KVM_MEM_LOG_DIRTY_PAGES, KVM_PIT_SPEAKER_DUMMY, kvm_pit_config, kvm_userspace_memory_region,
    kvm_xsave,
};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use snapshot_format::state::Fingerprint;
use snapshot_memory::GuestMemorySource;

use crate::error::GuestError;
use crate::memory::GuestMemory;

/// An address range of three pages that Intel CPUs need outside guest memory.
const TSS_ADDRESS: usize = 0xfffb_d000;

/// The descriptors of a machine, and the memory that its vCPUs write.
///
/// Descriptors come before the memory: they are closed first.
pub(super) struct Vm {
    pub(super) kvm: Kvm,
    machine: VmFd,
    vcpus: Vec<OwnedFd>,
    memory: GuestMemory,
    slot: MemorySlot,
}

impl Vm {
    /// Creates a machine with interrupt controllers, timer and vCPUs; the vCPUs come apart, each
    /// for its thread.
    pub(super) fn new(
        memory: GuestMemory,
        vcpu_count: usize,
    ) -> Result<(Self, Vec<VcpuFd>), GuestError> {
        let kvm = Kvm::new().map_err(|error| GuestError::NoKvm {
            source: error.into(),
        })?;
        let vm = kvm.create_vm().map_err(system("KVM_CREATE_VM"))?;
        let slot = MemorySlot {
            slot: 0,
            flags: 0,
            guest_address: 0,
            len_bytes: memory.layout().len_bytes(),
            host_address: memory.mapped().base().as_ptr() as u64,
        };
        // Before the chips, and logged from the start: a slot that is added or changed once there
        // are chips waits some milliseconds for readers of what they set up.
        register(&vm, slot, KVM_MEM_LOG_DIRTY_PAGES)?;
        // Addresses and chips before the vCPUs, or they have no local APICs.
        vm.set_tss_address(TSS_ADDRESS)
            .map_err(system("KVM_SET_TSS_ADDR"))?;
        vm.create_irq_chip().map_err(system("KVM_CREATE_IRQCHIP"))?;
        let pit = kvm_pit_config {
            flags: KVM_PIT_SPEAKER_DUMMY,
            ..Default::default()
        };
        vm.create_pit2(pit).map_err(system("KVM_CREATE_PIT2"))?;
        let vcpus = (0..vcpu_count as u64)
            .map(|id| vm.create_vcpu(id).map_err(system("KVM_CREATE_VCPU")))
            .collect::<Result<Vec<_>, _>>()?;
        let descriptors = vcpus
            .iter()
            .map(|vcpu| duplicate(vcpu, "duplicate a vCPU's descriptor"))
            .collect::<Result<_, _>>()?;
        let machine = Self {
            kvm,
            machine: vm,
            vcpus: descriptors,
            memory,
            slot,
        };
        Ok((machine, vcpus))
    }

    /// The descriptors, for capture and restore.
    pub(super) fn handles(&self) -> Handles<'_> {
        let vcpus = self.vcpus.iter().map(AsFd::as_fd).collect();
        // SAFETY: they are what they are passed as; callers use them while the vCPUs' threads
        // wait outside the guest.
        unsafe { Handles::new(borrow(&self.kvm), borrow(&self.machine), vcpus) }
    }

    /// The line that tells the guest of a new generation id.
    pub(super) fn generation_line(&self) -> GenerationLine<'_> {
        GenerationLine(&self.machine)
    }

    /// The log of the pages that the vCPUs write: since the machine was made, and to begin with also
    /// what the kernel wrote for them while they were restored.
    pub(super) fn dirty_log(&self) -> Result<KvmDirtyLog, GuestError> {
        let vm = duplicate(&self.machine, "duplicate the machine's descriptor")?;
        let layout = self.memory.layout().clone();
        // SAFETY: the slot was registered with exactly these values.
        let log = unsafe { KvmDirtyLog::new(vm, layout, &[self.slot], DirtyLogMode::GetAndClear) };
        log.map_err(|error| GuestError::State(error.into()))
    }
}

/// What this host offers to a machine: asked of one that is made for the question.
pub(crate) fn host() -> Result<Fingerprint, GuestError> {
    let kvm = Kvm::new().map_err(|error| GuestError::NoKvm {
        source: error.into(),
    })?;
    let vm = kvm.create_vm().map_err(system("KVM_CREATE_VM"))?;
    let vcpus = [vm.create_vcpu(0).map_err(system("KVM_CREATE_VCPU"))?];
    // SAFETY: the descriptors are what they are passed as, and the vCPU never runs.
    let handles = unsafe { Handles::from_raw(&kvm, &vm, &vcpus) };
    let options = KvmOptions::new(KernelDevices::NONE);
    let machine = KvmMachine::new(handles, options);
    let mut machine = machine.map_err(|error| GuestError::State(error.into()))?;
    machine.host().map_err(GuestError::State)
}

/// Raises interrupts of a machine.
pub(super) struct GenerationLine<'a>(&'a VmFd);

impl RaiseEvent for GenerationLine<'_> {
    fn raise(&mut self, event: GenerationEvent) -> Result<(), StepError> {
        let GenerationEvent::Interrupt(line) = event else {
            return Err(format!("the machine has no {event}").into());
        };
        for level in [true, false] {
            self.0
                .set_irq_line(line, level)
                .map_err(system("KVM_IRQ_LINE"))?;
        }
        Ok(())
    }
}

fn register(vm: &VmFd, slot: MemorySlot, more_flags: u32) -> Result<(), GuestError> {
    let region = kvm_userspace_memory_region {
        slot: slot.slot,
        flags: slot.flags | more_flags,
        guest_phys_addr: slot.guest_address,
        memory_size: slot.len_bytes,
        userspace_addr: slot.host_address,
    };
    // SAFETY: the mapping is that long and outlives every run of a vCPU: their threads are joined
    // before the memory is dropped.
    unsafe { vm.set_user_memory_region(region) }.map_err(system("KVM_SET_USER_MEMORY_REGION"))
}

/// Sets the x87, SSE and AVX registers.
pub(super) fn set_xsave(vcpu: &VcpuFd, area: &kvm_xsave) -> Result<(), GuestError> {
    // SAFETY: no feature was permitted that would make the area longer than the structure.
    unsafe { vcpu.set_xsave(area) }.map_err(system("KVM_SET_XSAVE"))
}

/// A descriptor that its owner only shows by number.
fn borrow<T: AsRawFd>(owner: &T) -> BorrowedFd<'_> {
    // SAFETY: the owner is borrowed for as long, and keeps its descriptor open.
    unsafe { BorrowedFd::borrow_raw(owner.as_raw_fd()) }
}

fn duplicate<T: AsRawFd>(owner: &T, call: &'static str) -> Result<OwnedFd, GuestError> {
    let duplicate = borrow(owner).try_clone_to_owned();
    duplicate.map_err(|source| GuestError::System { call, source })
}

/// An error of a call to KVM.
pub(super) fn system(call: &'static str) -> impl Fn(kvm_ioctls::Error) -> GuestError {
    move |error| GuestError::System {
        call,
        source: io::Error::from_raw_os_error(error.errno()),
    }
}
