//! Writing the state of one vCPU, in the one right order.

use kvm_bindings as kvm;
use snapshot_format::state::{Msr, VcpuX86, fit_bytes};

use crate::calls::{Arg, Calls, Target, refused};
use crate::error::KvmError;
use crate::lists::{encode_list, read};
use crate::request as req;
use crate::x86::convert;
use crate::x86::interface::Interface;
use crate::x86::msrs::{self, MsrPolicy};
use crate::x86::save::{self, CPUID_HEADER, LAPIC_BYTES};

/// Offset of the timer's entry in the local vector table.
const LVT_TIMER: usize = 0x320;
/// Mask bit and mode bits of that entry.
const LVT_MASKED: u32 = 1 << 16;
const LVT_MODE: u32 = 3 << 17;
const LVT_TSC_DEADLINE: u32 = 2 << 17;

/// `KVM_STATE_NESTED_GUEST_MODE` in the first field of the nested state.
const NESTED_GUEST_MODE: u16 = 1;

/// How a vCPU's TSC is set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum TscPlan {
    /// By this offset to the host's TSC.
    Offset(u64),
    /// By writing the saved value of the register: the kernel cannot say its own TSC.
    Register,
}

/// Writes everything that was saved of the vCPU. Memory and the clock must be in place.
pub(super) fn restore_vcpu(
    calls: &mut (dyn Calls + '_),
    interface: &Interface,
    index: usize,
    saved: &VcpuX86,
    tsc: TscPlan,
    policy: &MsrPolicy,
) -> Result<(), KvmError> {
    let vcpu = Target::Vcpu(index);
    // Says which features, registers and reserved bits exist, for every call below.
    let cpuid: Vec<_> = saved.cpuid.iter().map(convert::to_cpuid).collect();
    let mut cpuid = encode_list(CPUID_HEADER, &cpuid);
    calls.make(vcpu, req::KVM_SET_CPUID2, Arg::Bytes(&mut cpuid))?;
    // Before anything that is counted in TSC ticks.
    if interface.tsc_control && saved.tsc_khz != 0 {
        let khz = Arg::Value(saved.tsc_khz.into());
        calls.make(vcpu, req::KVM_SET_TSC_KHZ, khz)?;
    }
    // Allows VMX: before the system registers and nested state that use it.
    let (early, late) = split_msrs(saved, tsc);
    msrs::write(calls, index, &early, policy)?;
    // EFER, paging, APIC base. Reads memory for PAE without PDPTRs.
    restore_special(calls, interface, vcpu, saved)?;
    // Clears pending exceptions: before the events.
    let regs = convert::to_regs(&saved.registers);
    calls.set(vcpu, req::KVM_SET_REGS, regs)?;
    restore_nested(calls, interface, index, saved)?;
    // Says which parts of the XSAVE area count.
    calls.set(vcpu, req::KVM_SET_XCRS, convert::to_xcrs(&saved.xcrs))?;
    let mut xsave = fit(index, "XSAVE", &saved.xsave, interface.xsave_bytes)?;
    calls.make(vcpu, req::KVM_SET_XSAVE, Arg::Bytes(&mut xsave))?;
    let debug = convert::to_debugregs(&saved.debug);
    calls.set(vcpu, req::KVM_SET_DEBUGREGS, debug)?;
    // After the APIC base, before the MSRs: a deadline is ignored unless the timer is in its mode.
    if !saved.lapic.is_empty() {
        let mut lapic = fit(index, "the local APIC", &saved.lapic, LAPIC_BYTES)?;
        calls.make(vcpu, req::KVM_SET_LAPIC, Arg::Bytes(&mut lapic))?;
    }
    // By offset, not by value: the kernel's guess of what a written value means drifts apart
    // between vCPUs.
    if let TscPlan::Offset(offset) = tsc {
        set_tsc_offset(calls, vcpu, offset)?;
    }
    msrs::write(calls, index, &late, policy)?;
    // After the registers and the APIC, which would overwrite what is pending.
    let events = convert::to_events(&saved.events);
    calls.set(vcpu, req::KVM_SET_VCPU_EVENTS, events)?;
    // Late: setting system registers at the reset vector makes a boot processor runnable.
    let mp_state = kvm::kvm_mp_state {
        mp_state: saved.mp_state,
    };
    calls.set(vcpu, req::KVM_SET_MP_STATE, mp_state)?;
    notify_paused(calls, index)
}

/// Tells the guest's watchdog that its clock was stopped. A guest without the paravirtual clock
/// has no such watchdog, and the kernel then says EINVAL.
pub(super) fn notify_paused(calls: &mut (dyn Calls + '_), index: usize) -> Result<(), KvmError> {
    let (vcpu, request) = (Target::Vcpu(index), req::KVM_KVMCLOCK_CTRL);
    match calls.call(vcpu, request, Arg::Value(0)) {
        Ok(_) => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        Err(error) => Err(refused(vcpu, request, error)),
    }
}

fn fit(vcpu: usize, what: &'static str, saved: &[u8], len: usize) -> Result<Vec<u8>, KvmError> {
    fit_bytes(saved, len).map_err(|source| KvmError::DoesNotFit { vcpu, what, source })
}

/// What goes before the system registers, and the rest in its saved order.
fn split_msrs(saved: &VcpuX86, tsc: TscPlan) -> (Vec<Msr>, Vec<Msr>) {
    let by_offset = matches!(tsc, TscPlan::Offset(_));
    let (early, mut late): (Vec<Msr>, Vec<Msr>) = saved
        .msrs
        .iter()
        .filter(|msr| !(by_offset && msr.index == msrs::TSC))
        .copied()
        .partition(|msr| msr.index == msrs::FEATURE_CONTROL);
    let tsc = saved.msrs.iter().find(|msr| msr.index == msrs::TSC);
    for msr in &mut late {
        // A timer that fired between pause and save reads as 0, and its interrupt would be lost:
        // a deadline that has passed fires at once.
        if msr.index == msrs::TSC_DEADLINE && msr.value == 0 && waits_for_deadline(&saved.lapic) {
            msr.value = tsc.map_or(0, |tsc| tsc.value);
        }
    }
    (early, late)
}

fn waits_for_deadline(lapic: &[u8]) -> bool {
    let entry: u32 = read(lapic, LVT_TIMER);
    entry & LVT_MODE == LVT_TSC_DEADLINE && entry & LVT_MASKED == 0
}

fn restore_special(
    calls: &mut (dyn Calls + '_),
    interface: &Interface,
    vcpu: Target,
    saved: &VcpuX86,
) -> Result<(), KvmError> {
    // A snapshot of an older kernel carries its injected interrupt where only SREGS takes it.
    if interface.sregs2 && saved.special.injected_interrupt.is_none() {
        let sregs = convert::to_sregs2(&saved.special);
        calls.set(vcpu, req::KVM_SET_SREGS2, sregs)
    } else {
        let sregs = convert::to_sregs(&saved.special);
        calls.set(vcpu, req::KVM_SET_SREGS, sregs)
    }
}

fn restore_nested(
    calls: &mut (dyn Calls + '_),
    interface: &Interface,
    index: usize,
    saved: &VcpuX86,
) -> Result<(), KvmError> {
    if saved.nested.is_empty() {
        return Ok(());
    }
    let vcpu = Target::Vcpu(index);
    if saved.nested.len() > interface.nested_bytes {
        return Err(KvmError::OtherMachine {
            what: "bytes of nested state",
            saved: saved.nested.len() as u64,
            target: interface.nested_bytes as u64,
        });
    }
    let mut nested = saved.nested.clone();
    calls.make(vcpu, req::KVM_SET_NESTED_STATE, Arg::Bytes(&mut nested))?;
    let flags = read::<u32>(&saved.nested, 0) & u32::from(NESTED_GUEST_MODE);
    if flags != 0 {
        // Entering the nested guest loads RSP and RIP from its control structure, while a pending
        // nested entry on some kernels needs them before: so they are set on both sides.
        calls.set(vcpu, req::KVM_SET_REGS, convert::to_regs(&saved.registers))?;
    }
    Ok(())
}

fn set_tsc_offset(calls: &mut (dyn Calls + '_), vcpu: Target, offset: u64) -> Result<(), KvmError> {
    let request = req::KVM_SET_DEVICE_ATTR;
    let (group, attribute) = (kvm::KVM_VCPU_TSC_CTRL, kvm::KVM_VCPU_TSC_OFFSET);
    let mut value = offset;
    calls
        .attribute(vcpu, request, group, attribute.into(), &mut value)
        .map_err(|source| refused(vcpu, request, source))?;
    // Some hosts that are guests themselves take an offset and do not keep it. There is no other
    // way to set the counter there, and a guest that relies on it must not go there.
    if save::save_tsc_offset(calls, vcpu)? != Some(offset) {
        tracing::warn!(
            ?vcpu,
            offset,
            "this host keeps no TSC offset: the guest's TSC jumps"
        );
    }
    Ok(())
}
