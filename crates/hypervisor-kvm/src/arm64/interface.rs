//! What the running kernel offers.

use snapshot_format::state::{Capability, FingerprintArm64, KvmInit, SystemRegisterId};

use super::abi;
use crate::calls::{Arg, Calls, Target};
use crate::error::KvmError;
use crate::lists::{read, write};
use crate::request::KVM_GET_API_VERSION;
use crate::request::arm64 as req;

/// The only version of the interface that ever was stable.
const API_VERSION: u64 = 12;

/// Bits of a guest physical address where the kernel cannot say.
const DEFAULT_ADDRESS_BITS: u8 = 40;

/// Extensions that the layout or the meaning of saved state depends on.
const CAPABILITIES: [u32; 11] = [
    abi::CAP_IRQCHIP,
    abi::CAP_MP_STATE,
    abi::CAP_VCPU_EVENTS,
    abi::CAP_ONE_REG,
    abi::CAP_DEVICE_CTRL,
    abi::CAP_ARM_PSCI_0_2,
    abi::CAP_IMMEDIATE_EXIT,
    abi::CAP_ARM_INJECT_SERROR_ESR,
    abi::CAP_ARM_SVE,
    abi::CAP_ARM_SYSTEM_SUSPEND,
    abi::CAP_COUNTER_OFFSET,
];

/// The field of `ID_AA64PFR0_EL1` that says whether there is an interface to a GICv3. Kernels let it
/// follow the controller that the machine has: it is compared with that, and not by itself.
const GIC_FIELD: u64 = 0xf << 24;

/// The value of an ID register on a machine that has the same controller as one with `other`.
pub(super) fn with_gic_of(id: SystemRegisterId, value: u64, other: u64) -> u64 {
    if id == SystemRegisterId::ID_AA64PFR0_EL1 {
        value & !GIC_FIELD | other & GIC_FIELD
    } else {
        value
    }
}

/// Variants of the requests on this host.
#[derive(Clone, Debug)]
pub(super) struct Interface {
    /// Whether one offset can be set for both counters of a machine.
    pub(super) counter_offset: bool,
    /// What it offers that no ID register tells, services apart: bits of [`FingerprintArm64`].
    pub(super) features: u64,
    /// The most bits of a guest physical address.
    pub(super) address_bits: u8,
    /// Extensions that a snapshot depends on, sorted by number.
    pub(super) capabilities: Vec<Capability>,
}

impl Interface {
    pub(super) fn read(calls: &mut (dyn Calls + '_)) -> Result<Self, KvmError> {
        let found = calls.make(Target::System, KVM_GET_API_VERSION, Arg::Value(0))?;
        if found != API_VERSION {
            return Err(KvmError::ApiVersion { found });
        }
        let mut capabilities = Vec::with_capacity(CAPABILITIES.len());
        for number in CAPABILITIES {
            let value = u32::try_from(calls.extension(number)?).unwrap_or(u32::MAX);
            capabilities.push(Capability { number, value });
        }
        let mut features = 0;
        for (capability, feature) in [
            (abi::CAP_STEAL_TIME, FingerprintArm64::STOLEN_TIME),
            (abi::CAP_ARM_PMU_V3, FingerprintArm64::PMU),
            (abi::CAP_ARM_EL2, FingerprintArm64::EL2),
        ] {
            if calls.extension(capability)? != 0 {
                features |= feature;
            }
        }
        let bits = calls.extension(abi::CAP_ARM_VM_IPA_SIZE)?;
        let bits = u8::try_from(bits).ok().filter(|bits| *bits != 0);
        Ok(Self {
            counter_offset: calls.extension(abi::CAP_COUNTER_OFFSET)? != 0,
            features,
            address_bits: bits.unwrap_or(DEFAULT_ADDRESS_BITS),
            capabilities,
        })
    }
}

/// Whether a feature is set.
pub(super) fn has_feature(init: &KvmInit, feature: u32) -> bool {
    init.features[0] & 1 << feature != 0
}

/// The same with or without a feature.
pub(super) fn with_feature(mut init: KvmInit, feature: u32, is_on: bool) -> KvmInit {
    let bit = 1 << feature;
    init.features[0] = init.features[0] & !bit | if is_on { bit } else { 0 };
    init
}

/// What the kernel makes of its own accord on this host's CPU, with PSCI and nothing else.
pub(super) fn preferred(calls: &mut (dyn Calls + '_)) -> Result<KvmInit, KvmError> {
    let mut bytes = [0; 32];
    let arg = Arg::Bytes(&mut bytes);
    calls.make(Target::Vm, req::KVM_ARM_PREFERRED_TARGET, arg)?;
    let init = KvmInit {
        target: read(&bytes, 0),
        features: std::array::from_fn(|n| read(&bytes, 4 + 4 * n)),
    };
    Ok(with_feature(init, abi::VCPU_PSCI_0_2, true))
}

/// Makes a vCPU what it is. It starts powered on: how it is told [`KvmInit`] says.
pub(super) fn init(
    calls: &mut (dyn Calls + '_),
    vcpu: usize,
    init: &KvmInit,
) -> Result<(), KvmError> {
    let init = with_feature(*init, abi::VCPU_POWER_OFF, false);
    let mut bytes = [0; 32];
    write(&mut bytes, 0, &init.target);
    for (n, word) in init.features.iter().enumerate() {
        write(&mut bytes, 4 + 4 * n, word);
    }
    let arg = Arg::Bytes(&mut bytes);
    calls
        .make(Target::Vcpu(vcpu), req::KVM_ARM_VCPU_INIT, arg)
        .map(drop)
}

/// Fixes the lengths of vectors; before that, most requests are refused.
pub(super) fn finalize_sve(calls: &mut (dyn Calls + '_), vcpu: usize) -> Result<(), KvmError> {
    let mut feature = [0; 4];
    write(&mut feature, 0, &abi::VCPU_SVE);
    let arg = Arg::Bytes(&mut feature);
    calls
        .make(Target::Vcpu(vcpu), req::KVM_ARM_VCPU_FINALIZE, arg)
        .map(drop)
}

/// Whether the kernel can make a device of this kind.
pub(super) fn has_device(calls: &mut (dyn Calls + '_), kind: u32) -> bool {
    let mut bytes = [0; 12];
    write(&mut bytes, 0, &kind);
    write(&mut bytes, 8, &abi::CREATE_DEVICE_TEST);
    let arg = Arg::Bytes(&mut bytes);
    calls.call(Target::Vm, req::KVM_CREATE_DEVICE, arg).is_ok()
}
