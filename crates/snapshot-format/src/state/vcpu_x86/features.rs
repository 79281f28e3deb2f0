//! What an x86-64 vCPU was told it can do, and its model-specific registers.

use serde::Serialize;

use crate::state::bytes::as_hex_number;

/// One CPUID leaf (`struct kvm_cpuid_entry2`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct CpuidEntry {
    /// Leaf: the value of EAX that asks for it.
    #[serde(serialize_with = "as_hex_number")]
    pub function: u32,
    /// Sub-leaf: the value of ECX that asks for it, where it counts.
    pub index: u32,
    /// Bit 0: the sub-leaf counts. Other bits as KVM defines them.
    pub flags: u32,
    /// Answer in EAX.
    #[serde(serialize_with = "as_hex_number")]
    pub eax: u32,
    /// Answer in EBX.
    #[serde(serialize_with = "as_hex_number")]
    pub ebx: u32,
    /// Answer in ECX.
    #[serde(serialize_with = "as_hex_number")]
    pub ecx: u32,
    /// Answer in EDX.
    #[serde(serialize_with = "as_hex_number")]
    pub edx: u32,
}

/// One model-specific register.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Msr {
    /// Its number.
    #[serde(serialize_with = "as_hex_number")]
    pub index: u32,
    /// Its value.
    #[serde(serialize_with = "as_hex_number")]
    pub value: u64,
}
