//! Reading the state of one vCPU, in the one right order.

use kvm_bindings as kvm;
use snapshot_format::limits;
use snapshot_format::state::{SpecialRegisters, VcpuX86};

use crate::calls::{Arg, Calls, Target, refused};
use crate::error::KvmError;
use crate::lists::{decode_list, encode_list, read, write};
use crate::request as req;
use crate::x86::convert;
use crate::x86::interface::Interface;
use crate::x86::msrs;

/// Bytes before the entries of `struct kvm_cpuid2`.
pub(super) const CPUID_HEADER: usize = 8;

/// Where `struct kvm_nested_state` keeps its size.
const NESTED_SIZE_OFFSET: usize = 4;

/// Bytes of the page of the local APIC.
pub(super) const LAPIC_BYTES: usize = size_of::<kvm::kvm_lapic_state>();

/// Reads everything that KVM keeps of the vCPU. It must not be running, and its last exit must
/// have been completed.
pub(super) fn save_vcpu(
    calls: &mut (dyn Calls + '_),
    interface: &Interface,
    index: usize,
    irqchip: bool,
) -> Result<VcpuX86, KvmError> {
    let vcpu = Target::Vcpu(index);
    // First: it accepts a pending INIT or SIPI, which rewrites CS:RIP and the local APIC.
    let mp_state: kvm::kvm_mp_state = calls.get(vcpu, req::KVM_GET_MP_STATE)?;
    // Writes back what the kernel's instruction emulator still holds.
    let regs: kvm::kvm_regs = calls.get(vcpu, req::KVM_GET_REGS)?;
    let special = save_special(calls, interface, vcpu)?;
    let xsave = save_xsave(calls, interface, vcpu)?;
    let xcrs: kvm::kvm_xcrs = calls.get(vcpu, req::KVM_GET_XCRS)?;
    let debug: kvm::kvm_debugregs = calls.get(vcpu, req::KVM_GET_DEBUGREGS)?;
    // Syncs posted interrupts and the timer into the page.
    let lapic = if irqchip {
        save_bytes(calls, vcpu, req::KVM_GET_LAPIC, LAPIC_BYTES)?
    } else {
        Vec::new()
    };
    let khz = calls.make(vcpu, req::KVM_GET_TSC_KHZ, Arg::Value(0))?;
    let tsc_offset = save_tsc_offset(calls, vcpu)?;
    // What KVM really answers, not what the VMM once asked for.
    let cpuid = save_cpuid(calls, vcpu)?;
    // After CPUID: since Linux 6.13 some are readable only if the guest has their feature.
    let msrs = msrs::read(calls, index, &interface.msrs)?;
    let nested = save_nested(calls, interface, vcpu)?;
    // Last: any of the calls above may move pending work into the events.
    let events: kvm::kvm_vcpu_events = calls.get(vcpu, req::KVM_GET_VCPU_EVENTS)?;
    let saved = VcpuX86 {
        id: u32::try_from(index).unwrap_or(u32::MAX),
        mp_state: mp_state.mp_state,
        registers: convert::from_regs(&regs),
        special,
        debug: convert::from_debugregs(&debug),
        xcrs: convert::from_xcrs(&xcrs),
        events: convert::from_events(&events),
        tsc_khz: u32::try_from(khz).unwrap_or(0),
        tsc_offset,
        cpuid,
        msrs,
        xsave,
        lapic,
        nested,
        armed_deadline: None,
        guest_ssp: None,
    };
    check_limits(&saved, index)?;
    Ok(saved)
}

fn save_special(
    calls: &mut (dyn Calls + '_),
    interface: &Interface,
    vcpu: Target,
) -> Result<SpecialRegisters, KvmError> {
    if interface.sregs2 {
        let sregs: kvm::kvm_sregs2 = calls.get(vcpu, req::KVM_GET_SREGS2)?;
        Ok(convert::from_sregs2(&sregs))
    } else {
        let sregs: kvm::kvm_sregs = calls.get(vcpu, req::KVM_GET_SREGS)?;
        Ok(convert::from_sregs(&sregs))
    }
}

fn save_xsave(
    calls: &mut (dyn Calls + '_),
    interface: &Interface,
    vcpu: Target,
) -> Result<Vec<u8>, KvmError> {
    let request = if interface.xsave2 {
        req::KVM_GET_XSAVE2
    } else {
        req::KVM_GET_XSAVE
    };
    save_bytes(calls, vcpu, request, interface.xsave_bytes)
}

fn save_bytes(
    calls: &mut (dyn Calls + '_),
    vcpu: Target,
    request: req::Request,
    len: usize,
) -> Result<Vec<u8>, KvmError> {
    let mut bytes = vec![0; len];
    calls.make(vcpu, request, Arg::Bytes(&mut bytes))?;
    Ok(bytes)
}

/// The TSC offset; `None` where the kernel has no such attribute (before Linux 5.16).
pub(super) fn save_tsc_offset(
    calls: &mut (dyn Calls + '_),
    vcpu: Target,
) -> Result<Option<u64>, KvmError> {
    let mut offset = 0;
    let request = req::KVM_GET_DEVICE_ATTR;
    let (group, attribute) = (kvm::KVM_VCPU_TSC_CTRL, kvm::KVM_VCPU_TSC_OFFSET);
    let got = calls.attribute(vcpu, request, group, attribute.into(), &mut offset);
    match got {
        Ok(()) => Ok(Some(offset)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENXIO | libc::ENOTTY)) => Ok(None),
        Err(error) => Err(refused(vcpu, request, error)),
    }
}

fn save_cpuid(
    calls: &mut (dyn Calls + '_),
    vcpu: Target,
) -> Result<Vec<snapshot_format::state::CpuidEntry>, KvmError> {
    let room = vec![kvm::kvm_cpuid_entry2::default(); limits::MAX_CPUID_ENTRIES];
    let mut bytes = encode_list(CPUID_HEADER, &room);
    calls.make(vcpu, req::KVM_GET_CPUID2, Arg::Bytes(&mut bytes))?;
    let entries: Vec<kvm::kvm_cpuid_entry2> = decode_list(CPUID_HEADER, &bytes);
    Ok(entries.iter().map(convert::from_cpuid).collect())
}

fn save_nested(
    calls: &mut (dyn Calls + '_),
    interface: &Interface,
    vcpu: Target,
) -> Result<Vec<u8>, KvmError> {
    if interface.nested_bytes < size_of::<kvm::kvm_nested_state>() {
        return Ok(Vec::new());
    }
    let mut bytes = vec![0; interface.nested_bytes];
    let len = u32::try_from(interface.nested_bytes).unwrap_or(u32::MAX);
    write(&mut bytes, NESTED_SIZE_OFFSET, &len);
    calls.make(vcpu, req::KVM_GET_NESTED_STATE, Arg::Bytes(&mut bytes))?;
    let used: u32 = read(&bytes, NESTED_SIZE_OFFSET);
    bytes.truncate(usize::try_from(used).unwrap_or(usize::MAX));
    Ok(bytes)
}

/// That a reader will take what was read.
fn check_limits(saved: &VcpuX86, vcpu: usize) -> Result<(), KvmError> {
    let counts = [
        ("MSRs", saved.msrs.len(), limits::MAX_MSRS),
        ("bytes of XSAVE", saved.xsave.len(), limits::MAX_XSAVE_BYTES),
        (
            "bytes of nested state",
            saved.nested.len(),
            limits::MAX_NESTED_BYTES,
        ),
    ];
    match counts.iter().find(|(_, found, limit)| found > limit) {
        None => Ok(()),
        Some(&(what, found, limit)) => Err(KvmError::Limit {
            vcpu,
            what,
            found,
            limit,
        }),
    }
}
