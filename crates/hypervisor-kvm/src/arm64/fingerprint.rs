//! What this host offers, and what a machine on it uses.

use snapshot_format::Arch;
use snapshot_format::state::{
    Fingerprint, FingerprintArm64, GicVersion, Hypervisor, SystemRegister, SystemRegisterId,
    VcpuArm64, register_value,
};

use super::interface::{
    Interface, finalize_sve, has_device, has_feature, init, preferred, with_feature, with_gic_of,
};
use super::{abi, registers, save, vectors};
use crate::calls::{Calls, Target};
use crate::error::KvmError;
use crate::host;

/// Interrupts that KVM can give a controller, private ones included.
const MOST_INTERRUPTS: u32 = 1024;

/// What a machine was made with that no register tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Made {
    pub(super) counter_hz: u64,
    pub(super) address_bits: u8,
    pub(super) gic: GicVersion,
    pub(super) interrupts: u32,
    pub(super) its_count: usize,
}

/// What the host can show to a guest: asked of a machine of its own, with every feature that needs
/// nobody's consent.
pub(super) fn host(
    calls: &mut (dyn Calls + '_),
    interface: &Interface,
) -> Result<Fingerprint, KvmError> {
    let counter_hz = frequency(calls)?;
    let mut scratch = calls
        .scratch(false)
        .map_err(|source| KvmError::Scratch { source })?;
    let scratch = &mut *scratch;
    let all = Most::make(scratch)?;
    let gic = if has_device(scratch, abi::DEVICE_VGIC_V3) {
        GicVersion::V3
    } else if has_device(scratch, abi::DEVICE_VGIC_V2) {
        GicVersion::V2
    } else {
        GicVersion::None
    };
    let its = if has_device(scratch, abi::DEVICE_VGIC_ITS) {
        FingerprintArm64::ITS
    } else {
        0
    };
    let arm64 = FingerprintArm64 {
        hypervisor: Hypervisor::KVM,
        id_registers: id_registers(&all.system),
        counter_hz,
        address_bits: interface.address_bits,
        gic,
        interrupts: MOST_INTERRUPTS,
        sve_lengths: all.lengths,
        sme_lengths: [0; 8],
        features: its | interface.features,
    };
    Ok(of_cpu(&all.system, interface, arm64))
}

/// A vCPU with all that the host has, which never runs.
struct Most {
    system: Vec<SystemRegister>,
    lengths: [u64; 8],
}

impl Most {
    fn make(calls: &mut (dyn Calls + '_)) -> Result<Self, KvmError> {
        let mut features = preferred(calls)?;
        for (capability, feature) in [
            (abi::CAP_ARM_PMU_V3, abi::VCPU_PMU_V3),
            (abi::CAP_ARM_SVE, abi::VCPU_SVE),
            (abi::CAP_ARM_PTRAUTH_ADDRESS, abi::VCPU_PTRAUTH_ADDRESS),
            (abi::CAP_ARM_PTRAUTH_GENERIC, abi::VCPU_PTRAUTH_GENERIC),
        ] {
            let is_on = calls.extension(capability)? != 0;
            features = with_feature(features, feature, is_on);
        }
        init(calls, 0, &features)?;
        let mut lengths = [0; 8];
        if has_feature(&features, abi::VCPU_SVE) {
            lengths = vectors::lengths(calls, 0)?;
            finalize_sve(calls, 0)?;
        }
        let mut system = Vec::new();
        for id in registers::list(calls, 0)? {
            let encoding = save::system_id(id).filter(|id| is_identity(*id));
            if let Some(encoding) = encoding {
                system.push(SystemRegister {
                    id: encoding,
                    value: registers::get(calls, 0, id)?,
                });
            }
        }
        system.sort_unstable_by_key(|register| register.id);
        Ok(Self { system, lengths })
    }
}

/// What a machine needs, whose vCPUs are all alike: judged by one of them.
pub(super) fn of_machine(interface: &Interface, vcpu: &VcpuArm64, made: Made) -> Fingerprint {
    let flag = |is_on, flag| if is_on { flag } else { 0 };
    let has = |feature| {
        vcpu.kvm_init
            .is_some_and(|init| has_feature(&init, feature))
    };
    let arm64 = FingerprintArm64 {
        hypervisor: Hypervisor::KVM,
        id_registers: id_registers(&vcpu.system),
        counter_hz: made.counter_hz,
        address_bits: made.address_bits,
        gic: made.gic,
        interrupts: made.interrupts,
        sve_lengths: vcpu.sve.as_ref().map_or([0; 8], |sve| sve.lengths),
        sme_lengths: [0; 8],
        features: flag(made.its_count > 0, FingerprintArm64::ITS)
            | flag(
                vcpu.stolen_time_address.is_some(),
                FingerprintArm64::STOLEN_TIME,
            )
            | flag(has(abi::VCPU_PMU_V3), FingerprintArm64::PMU)
            | flag(has(abi::VCPU_HAS_EL2), FingerprintArm64::EL2),
    };
    let mut fingerprint = of_cpu(&vcpu.system, interface, arm64);
    // Without vectors the extension is not in use.
    if vcpu.sve.is_none() {
        let sve = abi::CAP_ARM_SVE;
        fingerprint.capabilities.retain(|c| c.number != sve);
    }
    fingerprint
}

/// Ticks of the counter in a second, which the guest reads from the hardware.
pub(super) fn frequency(calls: &mut (dyn Calls + '_)) -> Result<u64, KvmError> {
    calls
        .counter_frequency()
        .map_err(|source| crate::calls::refused(Target::System, CNTFRQ, source))
}

/// Not a request, but named like one in errors.
const CNTFRQ: crate::request::Request = crate::request::Request {
    name: "CNTFRQ_EL0",
    number: 0,
    arg_bytes: 0,
    entry_bytes: 0,
};

/// Registers that say what the CPU is or can do.
fn is_identity(id: SystemRegisterId) -> bool {
    id.is_feature_id() || id == SystemRegisterId::MIDR_EL1 || id == SystemRegisterId::CTR_EL0
}

/// Those of them that say what it can do.
fn id_registers(system: &[SystemRegister]) -> Vec<SystemRegister> {
    let registers = system.iter().copied();
    registers
        .filter(|r| is_identity(r.id) && r.id != SystemRegisterId::MIDR_EL1)
        .map(|SystemRegister { id, value }| SystemRegister {
            id,
            value: with_gic_of(id, value, 0),
        })
        .collect()
}

fn of_cpu(
    system: &[SystemRegister],
    interface: &Interface,
    arm64: FingerprintArm64,
) -> Fingerprint {
    let midr = register_value(system, SystemRegisterId::MIDR_EL1).unwrap_or(0);
    let bits = |shift: u32, mask: u64| u32::try_from(midr >> shift & mask).unwrap_or(0);
    Fingerprint {
        arch: Arch::Aarch64.number(),
        vendor: implementer(bits(24, 0xff)),
        model: bits(4, 0xfff),
        stepping: bits(20, 0xf) << 4 | bits(0, 0xf),
        page_bytes: host::page_bytes(),
        kernel: host::kernel_release(),
        capabilities: interface.capabilities.clone(),
        arm64: Some(arm64),
        ..Fingerprint::default()
    }
}

fn implementer(code: u32) -> String {
    let name = match code {
        0x41 => "Arm",
        0x43 => "Cavium",
        0x46 => "Fujitsu",
        0x48 => "HiSilicon",
        0x4e => "NVIDIA",
        0x50 => "Applied Micro",
        0x51 => "Qualcomm",
        0x61 => "Apple",
        0x6d => "Microsoft",
        0xc0 => "Ampere",
        _ => return format!("{code:#x}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_implementer_has_a_name_or_a_number() {
        assert_eq!(implementer(0x41), "Arm");
        assert_eq!(implementer(0x7f), "0x7f");
    }
}
