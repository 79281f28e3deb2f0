//! Version 2 of the fingerprint payload: with what aarch64 needs. Frozen: a change is version 3.

use super::{Capability, Fingerprint, FingerprintArm64};
use crate::state::mirror::wire;
use crate::state::system_register::SystemRegister;
use crate::state::vcpu_x86::CpuidEntry;
use crate::state::vm_arm64::GicVersion;

#[derive(crate::codec::Encode, crate::codec::Decode)]
pub(super) enum FingerprintGicV2 {
    None,
    V2,
    V3,
}

impl crate::state::mirror::Mirror<FingerprintGicV2> for GicVersion {
    fn mirror(&self) -> FingerprintGicV2 {
        match self {
            Self::None => FingerprintGicV2::None,
            Self::V2 => FingerprintGicV2::V2,
            Self::V3 => FingerprintGicV2::V3,
        }
    }
}

impl crate::state::mirror::Mirror<GicVersion> for FingerprintGicV2 {
    fn mirror(&self) -> GicVersion {
        match self {
            Self::None => GicVersion::None,
            Self::V2 => GicVersion::V2,
            Self::V3 => GicVersion::V3,
        }
    }
}

wire! {
    struct CapabilityV2 for Capability {
        number: u32,
        value: u32,
    }

    struct FingerprintCpuidV2 for CpuidEntry {
        function: u32,
        index: u32,
        flags: u32,
        eax: u32,
        ebx: u32,
        ecx: u32,
        edx: u32,
    }

    struct IdRegisterV2 for SystemRegister {
        id: u16,
        value: u64,
    }

    struct FingerprintArm64V2 for FingerprintArm64 {
        hypervisor: u16,
        id_registers: Vec<IdRegisterV2>,
        counter_hz: u64,
        address_bits: u8,
        gic: FingerprintGicV2,
        interrupts: u32,
        sve_lengths: [u64; 8],
        sme_lengths: [u64; 8],
        features: u64,
    }

    struct FingerprintV2 for Fingerprint {
        arch: u16,
        vendor: String,
        family: u32,
        model: u32,
        stepping: u32,
        page_bytes: u32,
        tsc_khz: u32,
        tsc_scaling: u8,
        cpuid: Vec<FingerprintCpuidV2>,
        msrs: Vec<u32>,
        capabilities: Vec<CapabilityV2>,
        kernel: String,
        arm64: Option<FingerprintArm64V2>,
    }
}
