//! Writing the state of one vCPU, in the one right order.

use kvm_bindings as kvm;
use snapshot_format::sabotage::Sabotage;
use snapshot_format::state::{Msr, VcpuX86, fit_bytes};

use crate::calls::{Arg, Calls, Target, refused};
use crate::error::KvmError;
use crate::lists::{encode_list, read};
use crate::request as req;
use crate::x86::interface::Interface;
use crate::x86::msr_policy::DroppedMsr;
use crate::x86::options::KvmOptions;
use crate::x86::report::RestoreReport;
use crate::x86::save::{CPUID_HEADER, GUEST_SSP, LAPIC_BYTES};
use crate::x86::tsc::TscPlan;
use crate::x86::{convert, msrs, nested, tsc};

/// Offset of the timer's entry in the local vector table.
const LVT_TIMER: usize = 0x320;
/// Mask bit and mode bits of that entry.
const LVT_MASKED: u32 = 1 << 16;
const LVT_MODE: u32 = 3 << 17;
const LVT_TSC_DEADLINE: u32 = 2 << 17;

/// What a restore needs beside the state of the vCPU.
pub(super) struct Restoring<'r> {
    pub(super) interface: &'r Interface,
    pub(super) options: &'r KvmOptions,
    pub(super) tsc: &'r TscPlan,
}

impl Restoring<'_> {
    /// Writes everything that was saved of the vCPU. Memory, clock and the frequency of its TSC
    /// must be in place.
    pub(super) fn vcpu(
        &self,
        calls: &mut (dyn Calls + '_),
        index: usize,
        saved: &VcpuX86,
        report: &mut RestoreReport,
    ) -> Result<(), KvmError> {
        let vcpu = Target::Vcpu(index);
        // Says which features, registers and reserved bits exist, for every call below.
        set_cpuid(calls, vcpu, saved)?;
        // Says which banks the machine check registers below have; fills their controls.
        set_machine_check(calls, vcpu, saved)?;
        // Allow VMX, and the rest that system registers, nested state and XSAVE are judged by.
        let (features, rest) = split_msrs(saved);
        self.write_msrs(calls, index, &features, report)?;
        // EFER, paging, APIC base. Reads memory for PAE without PDPTRs.
        restore_special(calls, self.interface, vcpu, saved)?;
        // Clears pending exceptions: before the events.
        let regs = convert::to_regs(&saved.registers);
        calls.set(vcpu, req::KVM_SET_REGS, regs)?;
        restore_nested(calls, self.interface, vcpu, saved)?;
        // Says which parts of the XSAVE area count.
        calls.set(vcpu, req::KVM_SET_XCRS, convert::to_xcrs(&saved.xcrs))?;
        let xsave_bytes = self.interface.xsave_bytes;
        let mut xsave = fit(index, "XSAVE", &saved.xsave, xsave_bytes)?;
        calls.make(vcpu, req::KVM_SET_XSAVE, Arg::Bytes(&mut xsave))?;
        let debug = convert::to_debugregs(&saved.debug);
        calls.set(vcpu, req::KVM_SET_DEBUGREGS, debug)?;
        let is_broken = Sabotage::MsrsBeforeLapic.is_on();
        if is_broken {
            self.write_msrs(calls, index, &rest, report)?;
        }
        // After the APIC base, before the MSRs: a deadline is ignored unless the timer is in its
        // mode.
        if !saved.lapic.is_empty() {
            let mut lapic = fit(index, "the local APIC", &saved.lapic, LAPIC_BYTES)?;
            calls.make(vcpu, req::KVM_SET_LAPIC, Arg::Bytes(&mut lapic))?;
        }
        // Before the deadline, which is compared with it.
        let outcome = tsc::set(calls, index, saved, self.tsc, self.options.tsc)?;
        report.tsc_of_vcpu(outcome);
        if !is_broken {
            self.write_msrs(calls, index, &rest, report)?;
        }
        set_ssp(calls, vcpu, saved)?;
        // After the registers and the APIC, which would overwrite what is pending.
        let events = convert::to_events(&saved.events);
        if !Sabotage::DroppedEvents.is_on() {
            calls.set(vcpu, req::KVM_SET_VCPU_EVENTS, events)?;
        }
        // Late: setting system registers at the reset vector makes a boot processor runnable.
        let mp_state = kvm::kvm_mp_state {
            mp_state: saved.mp_state,
        };
        calls.set(vcpu, req::KVM_SET_MP_STATE, mp_state)?;
        notify_paused(calls, index)
    }

    /// Writes registers. Those that the host refuses are dropped if the policy says so, and
    /// reported; else all of them are in the error.
    fn write_msrs(
        &self,
        calls: &mut (dyn Calls + '_),
        vcpu: usize,
        msrs: &[Msr],
        report: &mut RestoreReport,
    ) -> Result<(), KvmError> {
        let refused = msrs::write(calls, vcpu, msrs)?;
        let policy = &self.options.msrs;
        let (dropped, refused): (Vec<_>, Vec<_>) =
            refused.into_iter().partition(|&msr| policy.tolerates(msr));
        let dropped = dropped.into_iter().map(|msr| DroppedMsr { vcpu, msr });
        report.dropped_msrs.extend(dropped);
        if refused.is_empty() {
            Ok(())
        } else {
            Err(KvmError::MsrsRefused { vcpu, refused })
        }
    }
}

pub(super) fn set_cpuid(
    calls: &mut (dyn Calls + '_),
    vcpu: Target,
    saved: &VcpuX86,
) -> Result<(), KvmError> {
    let cpuid: Vec<_> = saved.cpuid.iter().map(convert::to_cpuid).collect();
    let mut cpuid = encode_list(CPUID_HEADER, &cpuid);
    calls
        .make(vcpu, req::KVM_SET_CPUID2, Arg::Bytes(&mut cpuid))
        .map(drop)
}

/// Gives the vCPU the machine check banks that it had. Its capabilities cannot be written as the
/// register that they are read from.
pub(super) fn set_machine_check(
    calls: &mut (dyn Calls + '_),
    vcpu: Target,
    saved: &VcpuX86,
) -> Result<(), KvmError> {
    match msrs::value_of(&saved.msrs, msrs::MCG_CAP) {
        None | Some(0) => Ok(()),
        Some(capabilities) => calls.set(vcpu, req::KVM_X86_SETUP_MCE, capabilities),
    }
}

fn set_ssp(calls: &mut (dyn Calls + '_), vcpu: Target, saved: &VcpuX86) -> Result<(), KvmError> {
    let Some(ssp) = saved.guest_ssp else {
        return Ok(());
    };
    let request = req::KVM_SET_ONE_REG;
    let set = calls.register(vcpu, request, GUEST_SSP, &mut ssp.to_le_bytes());
    set.map_err(|source| refused(vcpu, request, source))
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

/// What goes before the system registers, and the rest in its saved order; without the TSC, which
/// is set apart.
pub(super) fn split_msrs(saved: &VcpuX86) -> (Vec<Msr>, Vec<Msr>) {
    let (features, mut rest): (Vec<Msr>, Vec<Msr>) = saved
        .msrs
        .iter()
        .filter(|msr| msr.index != msrs::TSC)
        .copied()
        .partition(|msr| msrs::is_feature(msr.index));
    for msr in &mut rest {
        if msr.index == msrs::TSC_DEADLINE && msr.value == 0 {
            msr.value = deadline_that_fired(saved);
        }
    }
    (features, rest)
}

/// The deadline of a timer that fired while its vCPU was read, so that its interrupt is in no
/// state; 0 if none did. One that has passed fires at once.
fn deadline_that_fired(saved: &VcpuX86) -> u64 {
    let tsc = || msrs::value_of(&saved.msrs, msrs::TSC).unwrap_or(0);
    match saved.armed_deadline {
        Some(deadline) => deadline,
        // Older state does not say whether it was armed. An interrupt too many is harmless, one
        // too few hangs the guest.
        None if waits_for_deadline(&saved.lapic) => tsc(),
        None => 0,
    }
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
    vcpu: Target,
    saved: &VcpuX86,
) -> Result<(), KvmError> {
    // A host without nested guests takes no blob. One that is in use has been refused by then.
    if saved.nested.is_empty() || interface.nested_bytes == 0 {
        return Ok(());
    }
    let mut nested = saved.nested.clone();
    calls.make(vcpu, req::KVM_SET_NESTED_STATE, Arg::Bytes(&mut nested))?;
    if nested::is_in_guest(&saved.nested) {
        // Entering the nested guest loads RSP and RIP from its control structure, while a pending
        // nested entry on some kernels needs them before: so they are set on both sides.
        calls.set(vcpu, req::KVM_SET_REGS, convert::to_regs(&saved.registers))?;
    }
    Ok(())
}
