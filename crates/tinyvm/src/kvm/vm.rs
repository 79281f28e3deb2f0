//! Creating a KVM machine.

// UNSAFETY: memory slots, and descriptors that are borrowed from kvm-ioctls.
#![expect(
    unsafe_code,
    reason = "the kernel is told of memory that it may write, and of descriptors"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use hypervisor_bridge::{GenerationEvent, RaiseEvent, StepError};
use hypervisor_kvm::{DirtyLogMode, Handles, KvmDirtyLog, MemorySlot};
use kvm_bindings::{
    KVM_MAX_CPUID_ENTRIES, KVM_PIT_SPEAKER_DUMMY, kvm_pit_config, kvm_regs, kvm_segment,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use snapshot_memory::{GuestMemorySource, MappedMemory};

use crate::config::GuestConfig;
use crate::error::GuestError;
use crate::program::{PML4, entry_registers};

/// An address range of three pages that Intel CPUs need outside guest memory.
const TSS_ADDRESS: usize = 0xfffb_d000;

/// CR0: protection, extension type, numeric error, write protect, paging.
const CR0: u64 = 1 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 31;
/// CR4: physical address extension, SSE state saving and exceptions.
const CR4: u64 = 1 << 5 | 1 << 9 | 1 << 10;
/// EFER: long mode enabled and active.
const EFER: u64 = 1 << 8 | 1 << 10;

/// The descriptors of a machine, and the memory that its vCPU writes.
///
/// Descriptors come before the memory: they are closed first.
pub(super) struct Vm {
    kvm: Kvm,
    machine: VmFd,
    vcpu: OwnedFd,
    memory: Arc<MappedMemory>,
    slot: MemorySlot,
}

impl Vm {
    /// Creates a machine with interrupt controllers, timer and one vCPU; the vCPU comes apart,
    /// for its thread.
    pub(super) fn new(memory: Arc<MappedMemory>) -> Result<(Self, VcpuFd), GuestError> {
        let kvm = Kvm::new().map_err(|error| GuestError::NoKvm {
            source: error.into(),
        })?;
        let vm = kvm.create_vm().map_err(system("KVM_CREATE_VM"))?;
        // The order matters: addresses and chips before the vCPU, or it has no local APIC.
        vm.set_tss_address(TSS_ADDRESS)
            .map_err(system("KVM_SET_TSS_ADDR"))?;
        vm.create_irq_chip().map_err(system("KVM_CREATE_IRQCHIP"))?;
        let pit = kvm_pit_config {
            flags: KVM_PIT_SPEAKER_DUMMY,
            ..Default::default()
        };
        vm.create_pit2(pit).map_err(system("KVM_CREATE_PIT2"))?;
        let slot = MemorySlot {
            slot: 0,
            flags: 0,
            guest_address: 0,
            len_bytes: memory.layout().len_bytes(),
            host_address: memory.base().as_ptr() as u64,
        };
        register(&vm, slot)?;
        let vcpu = vm.create_vcpu(0).map_err(system("KVM_CREATE_VCPU"))?;
        let descriptor =
            borrow(&vcpu)
                .try_clone_to_owned()
                .map_err(|source| GuestError::System {
                    call: "duplicate the vCPU's descriptor",
                    source,
                })?;
        let machine = Self {
            kvm,
            machine: vm,
            vcpu: descriptor,
            memory,
            slot,
        };
        Ok((machine, vcpu))
    }

    /// Brings the vCPU of a fresh machine to the start of the program.
    pub(super) fn boot(&self, vcpu: &VcpuFd, config: &GuestConfig) -> Result<(), GuestError> {
        let cpuid = self
            .kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(system("KVM_GET_SUPPORTED_CPUID"))?;
        vcpu.set_cpuid2(&cpuid).map_err(system("KVM_SET_CPUID2"))?;
        let mut sregs = vcpu.get_sregs().map_err(system("KVM_GET_SREGS"))?;
        let code = flat_segment(8, 0xb);
        let data = kvm_segment {
            l: 0,
            db: 1,
            ..flat_segment(16, 3)
        };
        sregs.cs = code;
        for segment in [
            &mut sregs.ds,
            &mut sregs.es,
            &mut sregs.fs,
            &mut sregs.gs,
            &mut sregs.ss,
        ] {
            *segment = data;
        }
        sregs.cr0 = CR0;
        sregs.cr3 = PML4;
        sregs.cr4 = CR4;
        sregs.efer = EFER;
        vcpu.set_sregs(&sregs).map_err(system("KVM_SET_SREGS"))?;
        let entry = entry_registers(config);
        let regs = kvm_regs {
            rax: entry.rax,
            rsi: entry.rsi,
            rdi: entry.rdi,
            r8: entry.r8,
            r9: entry.r9,
            r10: entry.r10,
            rip: entry.rip,
            rflags: entry.rflags,
            ..Default::default()
        };
        vcpu.set_regs(&regs).map_err(system("KVM_SET_REGS"))
    }

    /// The descriptors, for capture and restore.
    pub(super) fn handles(&self) -> Handles<'_> {
        let vcpus = vec![self.vcpu.as_fd()];
        // SAFETY: they are what they are passed as; callers use them while the vCPU's thread
        // waits outside the guest.
        unsafe { Handles::new(borrow(&self.kvm), borrow(&self.machine), vcpus) }
    }

    /// The line that tells the guest of a new generation id.
    pub(super) fn generation_line(&self) -> GenerationLine<'_> {
        GenerationLine(&self.machine)
    }

    /// The log of the pages that the vCPU writes.
    pub(super) fn dirty_log(&self) -> Result<KvmDirtyLog, GuestError> {
        let vm = borrow(&self.machine).try_clone_to_owned();
        let vm = vm.map_err(|source| GuestError::System {
            call: "duplicate the machine's descriptor",
            source,
        })?;
        let layout = self.memory.layout().clone();
        // SAFETY: the slot was registered with exactly these values.
        let log = unsafe { KvmDirtyLog::new(vm, layout, &[self.slot], DirtyLogMode::GetAndClear) };
        log.map_err(|error| GuestError::State(error.into()))
    }
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

fn register(vm: &VmFd, slot: MemorySlot) -> Result<(), GuestError> {
    let region = kvm_userspace_memory_region {
        slot: slot.slot,
        flags: slot.flags,
        guest_phys_addr: slot.guest_address,
        memory_size: slot.len_bytes,
        userspace_addr: slot.host_address,
    };
    // SAFETY: the mapping is that long and outlives every run of the vCPU: its thread is joined
    // before the memory is dropped.
    unsafe { vm.set_user_memory_region(region) }.map_err(system("KVM_SET_USER_MEMORY_REGION"))
}

/// A descriptor that its owner only shows by number.
fn borrow<T: AsRawFd>(owner: &T) -> BorrowedFd<'_> {
    // SAFETY: the owner is borrowed for as long, and keeps its descriptor open.
    unsafe { BorrowedFd::borrow_raw(owner.as_raw_fd()) }
}

/// A segment over all addresses, as long mode wants it.
fn flat_segment(selector: u16, kind: u8) -> kvm_segment {
    kvm_segment {
        limit: u32::MAX,
        selector,
        type_: kind,
        present: 1,
        s: 1,
        l: 1,
        g: 1,
        ..Default::default()
    }
}

fn system(call: &'static str) -> impl Fn(kvm_ioctls::Error) -> GuestError {
    move |error| GuestError::System {
        call,
        source: io::Error::from_raw_os_error(error.errno()),
    }
}
