//! Finding out what a host refuses before the machine is touched.

use snapshot_format::state::{Msr, Reason, VcpuX86};

use crate::calls::{Calls, Target};
use crate::error::KvmError;
use crate::request as req;
use crate::x86::convert;
use crate::x86::msrs;
use crate::x86::options::KvmOptions;
use crate::x86::restore::{set_cpuid, set_machine_check, split_msrs};

/// When the registers of a snapshot are tried out on a vCPU that is made for it and never runs.
///
/// Which registers a host takes depends on the CPUID of the vCPU, so that the machine's own, which
/// is not to be touched yet, cannot always tell. Another machine takes a millisecond.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Rehearsal {
    /// Always, and every register; where no other machine can be made, as
    /// [`WhenInDoubt`](Self::WhenInDoubt).
    #[default]
    Always,
    /// When the machine's own vCPU cannot be read a register that was saved. A value that the host
    /// does not take, in a register that it has, is found when it is written: for the second and
    /// every later clone of a snapshot on one host.
    WhenInDoubt,
}

/// KVM's own registers hold addresses of guest memory, which is not there.
const OF_KVM: std::ops::RangeInclusive<u32> = 0x4b56_4d00..=0x4b56_4dff;

/// Every register of these vCPUs that the host does not take.
pub(super) fn refused_registers(
    calls: &mut (dyn Calls + '_),
    vcpus: &[VcpuX86],
    options: &KvmOptions,
) -> Result<Vec<Reason>, KvmError> {
    let local_apic = options.devices.has_local_apics();
    let mut scratch = match options.rehearsal {
        Rehearsal::Always => calls.scratch(local_apic).ok(),
        Rehearsal::WhenInDoubt => None,
    };
    let all = scratch.is_some();
    let mut in_doubt = Vec::with_capacity(vcpus.len());
    for (index, saved) in vcpus.iter().enumerate() {
        let mut msrs = strict(saved, options);
        if !all {
            remove_readable(calls, index, &mut msrs)?;
        }
        in_doubt.push(msrs);
    }
    if in_doubt.iter().all(Vec::is_empty) {
        return Ok(Vec::new());
    }
    if scratch.is_none() {
        scratch = calls.scratch(local_apic).ok();
    }
    let Some(mut scratch) = scratch else {
        // Where no machine can be made, doubt decides.
        let each = (0..).zip(in_doubt);
        return Ok(each
            .flat_map(|(vcpu, msrs)| msrs.into_iter().map(move |msr| refused(vcpu, msr)))
            .collect());
    };
    let mut reasons = Vec::new();
    for ((vcpu, saved), msrs) in (0..).zip(vcpus).zip(&in_doubt) {
        reasons.extend(rehearse(&mut *scratch, vcpu, saved, msrs, all)?);
    }
    Ok(reasons)
}

/// The registers that the policy does not drop, in the order in which they are written.
fn strict(saved: &VcpuX86, options: &KvmOptions) -> Vec<Msr> {
    let (mut msrs, rest) = split_msrs(saved);
    msrs.extend(rest);
    msrs.retain(|&msr| !options.msrs.tolerates(msr));
    msrs
}

/// Takes out the registers that the machine's own vCPU has.
fn remove_readable(
    calls: &mut (dyn Calls + '_),
    index: usize,
    msrs: &mut Vec<Msr>,
) -> Result<(), KvmError> {
    // A machine without this vCPU is refused for that.
    let indices: Vec<u32> = msrs.iter().map(|msr| msr.index).collect();
    let readable = msrs::read(calls, index, &indices)?;
    let mut readable = readable.iter().map(|msr| msr.index).peekable();
    // Both in the same order.
    msrs.retain(|msr| readable.next_if_eq(&msr.index).is_none());
    Ok(())
}

fn rehearse(
    scratch: &mut dyn Calls,
    vcpu: u32,
    saved: &VcpuX86,
    in_doubt: &[Msr],
    all: bool,
) -> Result<Vec<Reason>, KvmError> {
    let target = Target::Vcpu(0);
    let value = |what, number, value| Reason::Value {
        vcpu,
        what,
        number,
        value,
    };
    if set_cpuid(scratch, target, saved).is_err() {
        return Ok(vec![value(
            "the number of CPUID leaves",
            0,
            saved.cpuid.len() as u64,
        )]);
    }
    let mut reasons = Vec::new();
    let mut msrs = in_doubt.to_vec();
    if set_machine_check(scratch, target, saved).is_err() {
        let capabilities = msrs::value_of(&saved.msrs, msrs::MCG_CAP).unwrap_or(0);
        reasons.push(value("MSR", msrs::MCG_CAP.into(), capabilities));
        msrs.retain(|msr| msr.index != msrs::MCG_CAP);
    }
    if all {
        let xcrs = convert::to_xcrs(&saved.xcrs);
        if scratch.set(target, req::KVM_SET_XCRS, xcrs).is_err() {
            let xcr0 = saved.xcrs.first().map_or(0, |xcr| xcr.value);
            reasons.push(value("extended control register", 0, xcr0));
        }
        msrs.retain(|msr| !OF_KVM.contains(&msr.index));
    }
    let refused_msrs = msrs::write(scratch, 0, &msrs)?;
    reasons.extend(refused_msrs.into_iter().map(|msr| refused(vcpu, msr)));
    Ok(reasons)
}

fn refused(vcpu: u32, msr: Msr) -> Reason {
    Reason::Value {
        vcpu,
        what: "MSR",
        number: msr.index.into(),
        value: msr.value,
    }
}
