//! Writing the state of one vCPU, in the one right order.

use snapshot_format::state::{
    CoreArm64, GicVersion, Hypervisor, KvmInit, PendingArm64, PowerState, SystemRegisterId,
    VcpuArm64,
};

use super::interface::{finalize_sve, has_feature, init};
use super::policy::RegisterPolicy;
use super::{abi, registers, save, timers, vectors};
use crate::calls::{Arg, Calls, Target, refused};
use crate::error::KvmError;
use crate::lists::write;
use crate::request::arm64 as req;

/// PSTATE after a reset: EL1 with its own stack, all interrupts masked.
const RESET_PSTATE: u64 = 0x3c5;

/// Makes a vCPU what it was: features, lengths of vectors, what its firmware and its ID registers
/// say. All this is possible only before any vCPU of the machine has run.
pub(super) fn make_vcpu(
    calls: &mut (dyn Calls + '_),
    vcpu: usize,
    features: &KvmInit,
    saved: &VcpuArm64,
    policy: &RegisterPolicy,
) -> Result<(), KvmError> {
    init(calls, vcpu, features)?;
    if has_feature(features, abi::VCPU_SVE) {
        // Between being made and being final: earlier there is no such register, later it is fixed.
        if let Some(sve) = &saved.sve {
            vectors::set_lengths(calls, vcpu, &sve.lengths)?;
        }
        // Nothing else can be asked of it before.
        finalize_sve(calls, vcpu)?;
    }
    // The firmware before the ID registers: its version decides about features, too.
    for extra in firmware(saved) {
        policy.write_if_other(calls, vcpu, extra.0, extra.1)?;
    }
    // The kernel fixes them when the machine first runs.
    for register in saved.system.iter().filter(|r| r.id.is_feature_id()) {
        policy.write_if_other(calls, vcpu, abi::system(register.id), register.value)?;
    }
    Ok(())
}

/// The registers of the firmware, by number and value.
pub(super) fn firmware(saved: &VcpuArm64) -> impl Iterator<Item = (u64, u64)> + '_ {
    kvm_registers(saved).filter(|(id, _)| save::is_firmware(*id))
}

fn kvm_registers(saved: &VcpuArm64) -> impl Iterator<Item = (u64, u64)> + '_ {
    let own = |extra: &&_| {
        let extra: &snapshot_format::state::HypervisorRegister = extra;
        extra.hypervisor == Hypervisor::KVM
    };
    saved.extras.iter().filter(own).map(|e| (e.id, e.value))
}

/// That a vCPU has the affinity that its redistributor and the guest know it by.
pub(super) fn check_affinity(
    calls: &mut (dyn Calls + '_),
    vcpu: usize,
    saved: &VcpuArm64,
) -> Result<(), KvmError> {
    let id = abi::system(SystemRegisterId::MPIDR_EL1);
    let target = registers::get(calls, vcpu, id)?;
    if target == saved.mpidr {
        return Ok(());
    }
    Err(KvmError::OtherAffinity {
        vcpu,
        saved: saved.mpidr,
        target,
    })
}

/// Writes everything that was saved of a vCPU that [`make_vcpu`] made. The interrupt controller
/// exists, and the counter is set.
pub(super) fn restore_vcpu(
    calls: &mut (dyn Calls + '_),
    vcpu: usize,
    saved: &VcpuArm64,
    gic: GicVersion,
    policy: &RegisterPolicy,
) -> Result<(), KvmError> {
    if let PowerState::OnPending { entry, context } = saved.power {
        restart(calls, vcpu, entry, context)?;
    } else {
        restore_core(calls, vcpu, &saved.core)?;
        vectors::restore(calls, vcpu, &saved.simd, saved.sve.as_ref())?;
        restore_registers(calls, vcpu, saved, policy)?;
        // After the counter, which they are compared with.
        timers::restore(calls, vcpu, &saved.timers)?;
    }
    // After the interrupt controller was made, whose interrupt it is.
    let features = saved.kvm_init.unwrap_or_default();
    if has_feature(&features, abi::VCPU_PMU_V3) {
        restore_pmu(calls, vcpu, saved.pmu_interrupt, gic)?;
    }
    // After the registers, which an injected exception changes.
    restore_pending(calls, vcpu, &saved.pending)?;
    restore_power(calls, vcpu, saved.power)?;
    // The kernel looks for its page in guest memory.
    if let Some(address) = saved.stolen_time_address {
        let what = "as address of stolen time";
        set_once(calls, vcpu, (abi::PVTIME, abi::PVTIME_IPA), address, what)?;
    }
    Ok(())
}

/// A vCPU that was asked to start and has not run is as after a reset, which it just had.
fn restart(
    calls: &mut (dyn Calls + '_),
    vcpu: usize,
    entry: u64,
    context: u64,
) -> Result<(), KvmError> {
    let mut set =
        |offset, value| registers::set(calls, vcpu, abi::core(offset, abi::SIZE_U64), value);
    set(abi::CORE_X0, context)?;
    set(abi::CORE_PC, entry)?;
    set(abi::CORE_PSTATE, RESET_PSTATE)
}

fn restore_core(
    calls: &mut (dyn Calls + '_),
    vcpu: usize,
    core: &CoreArm64,
) -> Result<(), KvmError> {
    let mut set =
        |offset, value| registers::set(calls, vcpu, abi::core(offset, abi::SIZE_U64), value);
    for (n, x) in (0..).zip(core.x) {
        set(abi::CORE_X0 + 8 * n, x)?;
    }
    set(abi::CORE_SP_EL0, core.sp_el0)?;
    set(abi::CORE_PC, core.pc)?;
    set(abi::CORE_PSTATE, core.pstate)?;
    set(abi::CORE_SP_EL1, core.sp_el1)?;
    set(abi::CORE_ELR_EL1, core.elr_el1)?;
    set(abi::CORE_SPSR, core.spsr_el1)?;
    for (n, spsr) in (1..).zip(core.spsr_aarch32) {
        set(abi::CORE_SPSR + 8 * n, spsr)?;
    }
    Ok(())
}

/// System registers, then those that only KVM has: caches by level, for one.
fn restore_registers(
    calls: &mut (dyn Calls + '_),
    vcpu: usize,
    saved: &VcpuArm64,
    policy: &RegisterPolicy,
) -> Result<(), KvmError> {
    for register in saved.system.iter().filter(|r| !r.id.is_feature_id()) {
        let id = abi::system(register.id);
        if describes_cpu(register.id) {
            policy.write_if_other(calls, vcpu, id, register.value)?;
        } else {
            policy.write(calls, vcpu, id, register.value)?;
        }
    }
    // A core with other caches refuses its own description of them: equal ones are not written.
    for (id, value) in kvm_registers(saved).filter(|(id, _)| !save::is_firmware(*id)) {
        policy.write_if_other(calls, vcpu, id, value)?;
    }
    Ok(())
}

/// Registers that say what CPU and caches there are, which many kernels do not let be written.
fn describes_cpu(id: SystemRegisterId) -> bool {
    let [op0, op1, crn, crm, _] = id.fields();
    let is_identity = op0 == 3 && op1 == 0 && crn == 0 && crm == 0;
    let is_cache = op0 == 3 && op1 == 1 && crn == 0 && crm == 0;
    is_identity || is_cache || id == SystemRegisterId::CTR_EL0
}

/// Gives the monitors their interrupt and starts them, unless the VMM has. With a controller in the
/// kernel they do not start without one, and a vCPU does not run without them.
fn restore_pmu(
    calls: &mut (dyn Calls + '_),
    vcpu: usize,
    interrupt: Option<u32>,
    gic: GicVersion,
) -> Result<(), KvmError> {
    if gic != GicVersion::None {
        let Some(interrupt) = interrupt else {
            return Ok(());
        };
        let what = "as interrupt of the monitors";
        set_once(
            calls,
            vcpu,
            (abi::PMU, abi::PMU_IRQ),
            interrupt.into(),
            what,
        )?;
    }
    match set_attribute(calls, vcpu, abi::PMU, abi::PMU_INIT, 0) {
        Err(error) if is_done_before(&error) => Ok(()),
        done => done,
    }
}

/// Sets what can be set once. That the VMM has done so is no error, if it gave the same value.
fn set_once(
    calls: &mut (dyn Calls + '_),
    vcpu: usize,
    (group, number): (u32, u64),
    value: u64,
    what: &'static str,
) -> Result<(), KvmError> {
    match set_attribute(calls, vcpu, group, number, value) {
        Err(error) if is_done_before(&error) => {
            match save::attribute(calls, vcpu, group, number)? {
                Some(target) if target != value => Err(KvmError::OtherMachine {
                    what,
                    saved: value,
                    target,
                }),
                _ => Ok(()),
            }
        }
        done => done,
    }
}

/// Whether the kernel says that it was done before, and has changed nothing.
fn is_done_before(error: &KvmError) -> bool {
    matches!(error, KvmError::Ioctl { source, .. }
        if matches!(source.raw_os_error(), Some(libc::EBUSY | libc::EEXIST)))
}

fn restore_pending(
    calls: &mut (dyn Calls + '_),
    vcpu: usize,
    pending: &PendingArm64,
) -> Result<(), KvmError> {
    let mut bytes = [0; 64];
    let syndrome = pending.serror.and_then(|serror| serror.syndrome);
    write(&mut bytes, 8, &syndrome.unwrap_or(0));
    let flags = [
        u8::from(pending.serror.is_some()),
        u8::from(syndrome.is_some()),
        u8::from(pending.external_abort),
    ];
    for (byte, flag) in bytes.iter_mut().zip(flags) {
        *byte = flag;
    }
    let arg = Arg::Bytes(&mut bytes);
    calls
        .make(Target::Vcpu(vcpu), req::KVM_SET_VCPU_EVENTS, arg)
        .map(drop)
}

fn restore_power(
    calls: &mut (dyn Calls + '_),
    vcpu: usize,
    power: PowerState,
) -> Result<(), KvmError> {
    let state = match power {
        PowerState::Off => abi::MP_STOPPED,
        PowerState::Suspended => abi::MP_SUSPENDED,
        // One that waits in WFI is behind it: the instruction may end for any reason.
        _ => abi::MP_RUNNABLE,
    };
    let mut bytes = [0; 4];
    write(&mut bytes, 0, &state);
    let arg = Arg::Bytes(&mut bytes);
    calls
        .make(Target::Vcpu(vcpu), req::KVM_SET_MP_STATE, arg)
        .map(drop)
}

fn set_attribute(
    calls: &mut (dyn Calls + '_),
    vcpu: usize,
    group: u32,
    number: u64,
    value: u64,
) -> Result<(), KvmError> {
    let (target, request) = (Target::Vcpu(vcpu), req::KVM_SET_DEVICE_ATTR);
    let mut value = value;
    calls
        .attribute(target, request, group, number, &mut value)
        .map_err(|source| refused(target, request, source))
}
