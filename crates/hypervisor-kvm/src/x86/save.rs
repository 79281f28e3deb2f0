//! Reading the state of one vCPU, in the one right order.

use kvm_bindings as kvm;
use snapshot_format::limits;
use snapshot_format::state::{CpuidEntry, DebugRegisters, SpecialRegisters, VcpuEvents, VcpuX86};

use crate::calls::{Arg, Calls, Target, refused};
use crate::error::{KvmError, within_limits};
use crate::lists::{decode_list, encode_list, read, write};
use crate::request as req;
use crate::x86::interface::{Interface, SHADOW_STACKS};
use crate::x86::{check, convert, msrs, nested, tsc};

/// Bytes before the entries of `struct kvm_cpuid2`.
pub(super) const CPUID_HEADER: usize = 8;

/// Bytes of the page of the local APIC.
pub(super) const LAPIC_BYTES: usize = size_of::<kvm::kvm_lapic_state>();

/// The id of the shadow stack pointer: a register of 64 bits that KVM itself defines
/// (`KVM_REG_GUEST_SSP`, since Linux 6.18).
pub(super) const GUEST_SSP: u64 = kvm::KVM_REG_X86 | 3 << 52 | 3 << 32;

/// Reads everything that KVM keeps of the vCPU. It must not be running, and its last exit must
/// have been completed.
pub(super) fn save_vcpu(
    calls: &mut (dyn Calls + '_),
    interface: &Interface,
    index: usize,
    local_apic: bool,
) -> Result<VcpuX86, KvmError> {
    let vcpu = Target::Vcpu(index);
    // First: it accepts a pending INIT or SIPI, which rewrites CS:RIP and the local APIC.
    let mp_state: kvm::kvm_mp_state = calls.get(vcpu, req::KVM_GET_MP_STATE)?;
    // Writes back what the kernel's instruction emulator still holds.
    let regs: kvm::kvm_regs = calls.get(vcpu, req::KVM_GET_REGS)?;
    let special = save_special(calls, interface, index)?;
    let xsave = save_xsave(calls, interface, vcpu)?;
    let xcrs: kvm::kvm_xcrs = calls.get(vcpu, req::KVM_GET_XCRS)?;
    known(index, "extended control registers", xcrs.flags == 0)?;
    let debug = save_debug(calls, index)?;
    // Before the APIC and, among the MSRs, after it: a timer that fires between the two is in
    // neither.
    let armed_deadline = save_deadline(calls, index, local_apic)?;
    // Syncs posted interrupts and the timer into the page.
    let lapic = if local_apic {
        save_bytes(calls, vcpu, req::KVM_GET_LAPIC, LAPIC_BYTES)?
    } else {
        Vec::new()
    };
    let tsc_khz = tsc::khz(calls, index)?;
    let tsc_offset = tsc::offset(calls, vcpu)?;
    // What KVM really answers, not what the VMM once asked for.
    let cpuid = save_cpuid(calls, vcpu)?;
    // After CPUID: since Linux 6.13 some are readable only if the guest has their feature.
    let indices = msrs::indices_of(calls, index, &interface.msrs)?;
    let msrs = msrs::read(calls, index, &indices)?;
    let nested = save_nested(calls, interface, vcpu)?;
    let guest_ssp = save_ssp(calls, vcpu, &cpuid)?;
    // Last: any of the calls above may move pending work into the events.
    let events = save_events(calls, index)?;
    let saved = VcpuX86 {
        id: u32::try_from(index).unwrap_or(u32::MAX),
        mp_state: mp_state.mp_state,
        registers: convert::from_regs(&regs),
        special,
        debug,
        xcrs: convert::from_xcrs(&xcrs),
        events,
        tsc_khz,
        tsc_offset,
        cpuid,
        msrs,
        xsave,
        lapic,
        nested,
        armed_deadline,
        guest_ssp,
    };
    check_limits(&saved, index)?;
    Ok(saved)
}

/// That the kernel gave nothing that this build would lose.
fn known(vcpu: usize, what: &'static str, known: bool) -> Result<(), KvmError> {
    let vcpu = Some(vcpu);
    let unknown = KvmError::UnknownState { vcpu, what };
    if known { Ok(()) } else { Err(unknown) }
}

fn save_debug(calls: &mut (dyn Calls + '_), index: usize) -> Result<DebugRegisters, KvmError> {
    let debug: kvm::kvm_debugregs = calls.get(Target::Vcpu(index), req::KVM_GET_DEBUGREGS)?;
    let nothing_new = debug.flags == 0 && debug.reserved == [0; 9];
    known(index, "debug registers", nothing_new)?;
    Ok(convert::from_debugregs(&debug))
}

fn save_events(calls: &mut (dyn Calls + '_), index: usize) -> Result<VcpuEvents, KvmError> {
    let vcpu = Target::Vcpu(index);
    let events: kvm::kvm_vcpu_events = calls.get(vcpu, req::KVM_GET_VCPU_EVENTS)?;
    let nothing_new = events.flags & !check::EVENT_FLAGS == 0 && events.reserved == [0; 26];
    known(index, "events", nothing_new)?;
    let mut saved = convert::from_events(&events);
    if events.flags & kvm::KVM_VCPUEVENT_VALID_PAYLOAD == 0 {
        // Without payloads KVM tells of a pending exception as injected, too, and takes that alone.
        saved.exception.pending = 0;
    }
    Ok(saved)
}

/// Which parts of the events the machine gives.
pub(super) fn event_flags(calls: &mut (dyn Calls + '_)) -> Result<u32, KvmError> {
    let events: kvm::kvm_vcpu_events = calls.get(Target::Vcpu(0), req::KVM_GET_VCPU_EVENTS)?;
    Ok(events.flags)
}

/// When the timer of the local APIC is to fire; `None` where the kernel has no such register.
fn save_deadline(
    calls: &mut (dyn Calls + '_),
    index: usize,
    local_apic: bool,
) -> Result<Option<u64>, KvmError> {
    if !local_apic {
        return Ok(None);
    }
    let read = msrs::read(calls, index, &[msrs::TSC_DEADLINE])?;
    Ok(read.first().map(|msr| msr.value))
}

/// The shadow stack pointer of a guest that was shown shadow stacks.
fn save_ssp(
    calls: &mut (dyn Calls + '_),
    vcpu: Target,
    cpuid: &[CpuidEntry],
) -> Result<Option<u64>, KvmError> {
    let leaf_7 = |entry: &&CpuidEntry| entry.function == 7 && entry.index == 0;
    let features = cpuid.iter().find(leaf_7).map_or(0, |entry| entry.ecx);
    if features & SHADOW_STACKS == 0 {
        return Ok(None);
    }
    let mut value = [0; 8];
    let request = req::KVM_GET_ONE_REG;
    let read = calls.register(vcpu, request, GUEST_SSP, &mut value);
    read.map_err(|source| refused(vcpu, request, source))?;
    Ok(Some(u64::from_le_bytes(value)))
}

fn save_special(
    calls: &mut (dyn Calls + '_),
    interface: &Interface,
    index: usize,
) -> Result<SpecialRegisters, KvmError> {
    let vcpu = Target::Vcpu(index);
    if interface.sregs2 {
        let sregs: kvm::kvm_sregs2 = calls.get(vcpu, req::KVM_GET_SREGS2)?;
        let nothing_new = sregs.flags & !convert::PDPTRS_VALID == 0;
        known(index, "system registers", nothing_new)?;
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

fn save_cpuid(calls: &mut (dyn Calls + '_), vcpu: Target) -> Result<Vec<CpuidEntry>, KvmError> {
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
    write(&mut bytes, nested::SIZE_AT, &len);
    calls.make(vcpu, req::KVM_GET_NESTED_STATE, Arg::Bytes(&mut bytes))?;
    let used: u32 = read(&bytes, nested::SIZE_AT);
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
    within_limits(vcpu, &counts)
}
