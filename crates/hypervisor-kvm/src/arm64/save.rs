//! Reading the state of one vCPU, in the one right order.

use snapshot_format::limits;
use snapshot_format::state::{
    CoreArm64, GicVersion, Hypervisor, HypervisorRegister, KvmInit, PendingArm64, PowerState,
    SError, SystemRegister, SystemRegisterId, VcpuArm64,
};

use super::interface::has_feature;
use super::{abi, gicv3, registers, timers, vectors};
use crate::calls::{Arg, Calls, Target, refused};
use crate::error::{KvmError, within_limits};
use crate::lists::read;
use crate::request as req;
use crate::request::arm64 as arm;

/// What the attribute of stolen time answers where none is told.
const NO_ADDRESS: u64 = u64::MAX;

/// The field of `ID_AA64PFR1_EL1` that says whether memory has tags: from 2 on it has.
const MTE_SHIFT: u32 = 8;

/// Reads everything that KVM keeps of the vCPU. It must not be running, and its last exit must
/// have been completed.
pub(super) fn save_vcpu(
    calls: &mut (dyn Calls + '_),
    vcpu: usize,
    init: KvmInit,
    gic: GicVersion,
) -> Result<VcpuArm64, KvmError> {
    // First, as the request takes in a reset that CPU_ON still owes.
    let power = save_power(calls, vcpu)?;
    let list = registers::list(calls, vcpu)?;
    let core = save_core(calls, vcpu)?;
    let sve = has_feature(&init, abi::VCPU_SVE)
        .then(|| vectors::save_sve(calls, vcpu))
        .transpose()?;
    let simd = vectors::save_simd(calls, vcpu, sve.as_ref())?;
    let mut saved = VcpuArm64 {
        id: u32::try_from(vcpu).unwrap_or(u32::MAX),
        power,
        core,
        simd,
        sve,
        kvm_init: Some(init),
        ..VcpuArm64::default()
    };
    save_list(calls, vcpu, &list, &mut saved)?;
    saved.timers = timers::save(calls, vcpu)?;
    // Without a controller in the kernel the monitors have no interrupt that it knows.
    if has_feature(&init, abi::VCPU_PMU_V3) && gic != GicVersion::None {
        saved.pmu_interrupt = attribute(calls, vcpu, abi::PMU, abi::PMU_IRQ)?
            .and_then(|interrupt| u32::try_from(interrupt).ok());
    }
    saved.stolen_time_address = attribute(calls, vcpu, abi::PVTIME, abi::PVTIME_IPA)?
        .filter(|address| *address != NO_ADDRESS);
    if gic == GicVersion::V3 {
        saved.icc = gicv3::save_icc(calls, saved.mpidr)?;
    }
    // Last: any of the requests above may move pending work into the events.
    saved.pending = save_pending(calls, vcpu)?;
    check(&saved, vcpu)?;
    Ok(saved)
}

fn save_power(calls: &mut (dyn Calls + '_), vcpu: usize) -> Result<PowerState, KvmError> {
    let mut state = [0; 4];
    let arg = Arg::Bytes(&mut state);
    calls.make(Target::Vcpu(vcpu), arm::KVM_GET_MP_STATE, arg)?;
    match read(&state, 0) {
        abi::MP_RUNNABLE => Ok(PowerState::On),
        abi::MP_STOPPED => Ok(PowerState::Off),
        abi::MP_SUSPENDED => Ok(PowerState::Suspended),
        _ => Err(KvmError::NotCaptured {
            what: "a run state that aarch64 does not have",
        }),
    }
}

fn save_core(calls: &mut (dyn Calls + '_), vcpu: usize) -> Result<CoreArm64, KvmError> {
    let mut get = |offset| registers::get(calls, vcpu, abi::core(offset, abi::SIZE_U64));
    let mut core = CoreArm64::default();
    for (n, x) in (0..).zip(&mut core.x) {
        *x = get(abi::CORE_X0 + 8 * n)?;
    }
    core.sp_el0 = get(abi::CORE_SP_EL0)?;
    core.pc = get(abi::CORE_PC)?;
    core.pstate = get(abi::CORE_PSTATE)?;
    core.sp_el1 = get(abi::CORE_SP_EL1)?;
    core.elr_el1 = get(abi::CORE_ELR_EL1)?;
    core.spsr_el1 = get(abi::CORE_SPSR)?;
    for (n, spsr) in (1..).zip(&mut core.spsr_aarch32) {
        *spsr = get(abi::CORE_SPSR + 8 * n)?;
    }
    Ok(core)
}

/// Reads what the kernel lists and no other part of this module reads: system registers, those of
/// the firmware, and any that this build has no word for.
fn save_list(
    calls: &mut (dyn Calls + '_),
    vcpu: usize,
    list: &[u64],
    saved: &mut VcpuArm64,
) -> Result<(), KvmError> {
    for &id in list {
        if is_read_elsewhere(id) {
            continue;
        }
        if registers::len_bytes(id) > 8 {
            return Err(KvmError::UnknownRegister { vcpu, id });
        }
        let value = registers::get(calls, vcpu, id)?;
        match system_id(id) {
            Some(SystemRegisterId::MPIDR_EL1) => saved.mpidr = value,
            Some(id) => saved.system.push(SystemRegister { id, value }),
            None => saved.extras.push(HypervisorRegister {
                hypervisor: Hypervisor::KVM,
                id,
                value,
            }),
        }
    }
    saved.system.sort_unstable_by_key(|register| register.id);
    saved.extras.sort_unstable();
    Ok(())
}

/// Core registers, vectors, timers.
fn is_read_elsewhere(id: u64) -> bool {
    let group = id & abi::GROUP_MASK;
    group == abi::CORE || group == abi::SVE || timers::REGISTERS.contains(&id)
}

/// The encoding, if it is a system register.
pub(super) fn system_id(id: u64) -> Option<SystemRegisterId> {
    let [low, high, ..] = id.to_le_bytes();
    let encoding = SystemRegisterId(u16::from_le_bytes([low, high]));
    (abi::system(encoding) == id).then_some(encoding)
}

/// An attribute of the vCPU; `None` where it has no such attribute, or none that was set.
pub(super) fn attribute(
    calls: &mut (dyn Calls + '_),
    vcpu: usize,
    group: u32,
    number: u64,
) -> Result<Option<u64>, KvmError> {
    let (target, request) = (Target::Vcpu(vcpu), arm::KVM_GET_DEVICE_ATTR);
    let mut value = 0;
    match calls.attribute(target, request, group, number, &mut value) {
        Ok(()) => Ok(Some(value)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENXIO | libc::ENOTTY)) => Ok(None),
        Err(error) => Err(refused(target, request, error)),
    }
}

/// `struct kvm_vcpu_events`: three flags, padding, the syndrome.
fn save_pending(calls: &mut (dyn Calls + '_), vcpu: usize) -> Result<PendingArm64, KvmError> {
    let mut bytes = [0; 64];
    let arg = Arg::Bytes(&mut bytes);
    calls.make(Target::Vcpu(vcpu), arm::KVM_GET_VCPU_EVENTS, arg)?;
    let [is_serror, has_syndrome, is_abort, ..] = bytes;
    Ok(PendingArm64 {
        serror: (is_serror != 0).then(|| SError {
            syndrome: (has_syndrome != 0).then(|| read(&bytes, 8)),
        }),
        external_abort: is_abort != 0,
        ..PendingArm64::default()
    })
}

/// That a reader will take what was read, and that nothing of it is left out.
fn check(saved: &VcpuArm64, vcpu: usize) -> Result<(), KvmError> {
    let id = SystemRegisterId::ID_AA64PFR1_EL1;
    let features = snapshot_format::state::register_value(&saved.system, id).unwrap_or(0);
    if features >> MTE_SHIFT & 0xf >= 2 {
        let what = "memory tags (MTE), which are memory beside memory";
        return Err(KvmError::NotCaptured { what });
    }
    let counts = [
        (
            "system registers",
            saved.system.len(),
            limits::MAX_SYSTEM_REGISTERS,
        ),
        (
            "other registers",
            saved.extras.len(),
            limits::MAX_HYPERVISOR_REGISTERS,
        ),
    ];
    within_limits(vcpu, &counts)
}

/// The affinity of a vCPU; `None` where the vCPU was not made yet.
pub(super) fn affinity(calls: &mut (dyn Calls + '_), vcpu: usize) -> Result<Option<u64>, KvmError> {
    let (target, request) = (Target::Vcpu(vcpu), req::KVM_GET_ONE_REG);
    let mut value = [0; 8];
    let id = abi::system(SystemRegisterId::MPIDR_EL1);
    match calls.register(target, request, id, &mut value) {
        Ok(()) => Ok(Some(u64::from_le_bytes(value))),
        Err(error) if error.raw_os_error() == Some(libc::ENOEXEC) => Ok(None),
        Err(error) => Err(refused(target, request, error)),
    }
}

/// Whether it is a register of the firmware that KVM is to the guest.
pub(super) fn is_firmware(id: u64) -> bool {
    matches!(id & abi::GROUP_MASK, abi::FIRMWARE | abi::FIRMWARE_BITMAP)
}
