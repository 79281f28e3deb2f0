//! Version 1 of the fingerprint payload, which knew no aarch64. Frozen, and read only.

use super::{Capability, Fingerprint};
use crate::state::mirror::{replaced_wire, wire};
use crate::state::vcpu_x86::CpuidEntry;

wire! {
    struct CapabilityV1 for Capability {
        number: u32,
        value: u32,
    }

    struct FingerprintCpuidV1 for CpuidEntry {
        function: u32,
        index: u32,
        flags: u32,
        eax: u32,
        ebx: u32,
        ecx: u32,
        edx: u32,
    }
}

replaced_wire! {
    struct FingerprintV1 for Fingerprint {
        arch: u16,
        vendor: String,
        family: u32,
        model: u32,
        stepping: u32,
        page_bytes: u32,
        tsc_khz: u32,
        tsc_scaling: u8,
        cpuid: Vec<FingerprintCpuidV1>,
        msrs: Vec<u32>,
        capabilities: Vec<CapabilityV1>,
        kernel: String,
    }
}
