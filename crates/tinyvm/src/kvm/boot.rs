//! The registers that a machine starts with.

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::{Kvm, VcpuFd};
use snapshot_memory::MappedMemory;

use super::vm::system;
use super::{extended, proof};
use crate::config::GuestConfig;
use crate::error::GuestError;
use crate::program::{self, PML4, entry_registers};
use crate::proof::Program;

/// CR0: protection, extension type, numeric error, write protect, paging.
pub(super) const CR0: u64 = 1 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 31;
/// CR4: physical address extension, SSE state saving and exceptions.
pub(super) const CR4: u64 = 1 << 5 | 1 << 9 | 1 << 10;
/// EFER: long mode enabled and active.
const EFER: u64 = 1 << 8 | 1 << 10;
/// APIC base: the x2APIC mode, beside what is on already.
const X2APIC: u64 = 1 << 10;
/// CPUID leaf whose EBX has the number of the APIC in its highest byte.
const FEATURES_LEAF: u32 = 1;

/// Brings the vCPUs of a fresh machine to the start of its program, and loads that.
pub(super) fn boot(
    kvm: &Kvm,
    vcpus: &[VcpuFd],
    config: &GuestConfig,
    memory: &MappedMemory,
) -> Result<(), GuestError> {
    let cpuid = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(system("KVM_GET_SUPPORTED_CPUID"))?;
    for (id, vcpu) in (0..).zip(vcpus) {
        let cpuid = cpuid_of(&cpuid, id);
        vcpu.set_cpuid2(&cpuid).map_err(system("KVM_SET_CPUID2"))?;
    }
    let Some(first) = vcpus.first() else {
        return Ok(());
    };
    if config.program == Program::Pattern {
        program::load(config, memory)?;
        set_sregs(first, long_mode)?;
        return set_regs(first, &pattern_registers(config));
    }
    proof::load(config, memory)?;
    for (id, vcpu) in (0..).zip(vcpus) {
        // As firmware leaves it. The others wait for their start.
        set_sregs(vcpu, |sregs| sregs.apic_base |= X2APIC)?;
        if config.program == Program::Vectors {
            extended::fill(vcpu, config.seed ^ id)?;
        }
    }
    set_sregs(first, |sregs| {
        long_mode(sregs);
        (sregs.gdt, sregs.idt) = tables();
    })?;
    let regs = kvm_regs {
        rip: proof::start(),
        rflags: 2,
        ..Default::default()
    };
    set_regs(first, &regs)
}

/// What the vCPU `id` shows of itself.
fn cpuid_of(cpuid: &CpuId, id: u8) -> CpuId {
    let mut cpuid = cpuid.clone();
    let features = cpuid.as_mut_slice().iter_mut();
    for entry in features.filter(|entry| entry.function == FEATURES_LEAF) {
        entry.ebx = entry.ebx & 0x00ff_ffff | u32::from(id) << 24;
    }
    cpuid
}

fn set_sregs(vcpu: &VcpuFd, change: impl FnOnce(&mut kvm_sregs)) -> Result<(), GuestError> {
    let mut sregs = vcpu.get_sregs().map_err(system("KVM_GET_SREGS"))?;
    change(&mut sregs);
    vcpu.set_sregs(&sregs).map_err(system("KVM_SET_SREGS"))
}

fn set_regs(vcpu: &VcpuFd, regs: &kvm_regs) -> Result<(), GuestError> {
    vcpu.set_regs(regs).map_err(system("KVM_SET_REGS"))
}

fn long_mode(sregs: &mut kvm_sregs) {
    let data = kvm_segment {
        l: 0,
        db: 1,
        ..flat_segment(16, 3)
    };
    sregs.cs = flat_segment(8, 0xb);
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
}

/// The descriptor tables of the proof programs.
fn tables() -> (kvm_dtable, kvm_dtable) {
    let table = |base, limit| kvm_dtable {
        base,
        limit,
        ..Default::default()
    };
    (
        table(proof::GDT, proof::GDT_LIMIT),
        table(proof::IDT, proof::IDT_LIMIT),
    )
}

fn pattern_registers(config: &GuestConfig) -> kvm_regs {
    let entry = entry_registers(config);
    kvm_regs {
        rax: entry.rax,
        rsi: entry.rsi,
        rdi: entry.rdi,
        r8: entry.r8,
        r9: entry.r9,
        r10: entry.r10,
        rip: entry.rip,
        rflags: entry.rflags,
        ..Default::default()
    }
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
