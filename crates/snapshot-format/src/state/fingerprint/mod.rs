//! What a snapshot needs of a host, and what a host offers.

mod arm64;
mod check;
mod kind;
mod reason;
mod v1;
mod v2;

use serde::Serialize;

pub use arm64::FingerprintArm64;
pub use check::TSC_TOLERANCE_PPM;
pub use kind::{ReasonKind, UnknownReason};
pub use reason::Reason;

use crate::codec;
use crate::error::DecodeError;
use crate::limits;
use crate::section::{SectionKind, StatePayload};
use crate::state::bytes::as_hex_numbers;
use crate::state::counts::{check_counts, unknown_version};
use crate::state::mirror::Mirror;
use crate::state::vcpu_x86::CpuidEntry;

/// One extension of the hypervisor that the machine uses, or that the host has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Capability {
    /// Its number in the hypervisor's interface (`KVM_CAP_*`).
    pub number: u32,
    /// What the hypervisor answered; 0 means that it lacks the extension.
    pub value: u32,
}

/// The compatibility fingerprint.
///
/// The same type describes both sides. Of a snapshot it says what the guest was shown and uses;
/// of a host, what the host can show. [`check`](Self::check) compares them.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Fingerprint {
    /// Architecture as in the envelope header: 1 is x86-64, 2 is aarch64.
    pub arch: u16,
    /// Who made the CPU: `AuthenticAMD`.
    pub vendor: String,
    /// CPU family, extended part included.
    pub family: u32,
    /// CPU model, extended part included.
    pub model: u32,
    /// CPU stepping; informational.
    pub stepping: u32,
    /// Host page size in bytes.
    pub page_bytes: u32,
    /// TSC frequency in kHz; 0 where it is not known.
    pub tsc_khz: u32,
    /// Of a host: whether it runs a guest at another TSC frequency than its own (1), or not (0).
    pub tsc_scaling: u8,
    /// CPUID: what the guest was shown, or what the host supports.
    pub cpuid: Vec<CpuidEntry>,
    /// Model-specific registers that hold a value, or that the host can restore. Sorted.
    #[serde(serialize_with = "as_hex_numbers")]
    pub msrs: Vec<u32>,
    /// Extensions in use, or offered. Sorted by number.
    pub capabilities: Vec<Capability>,
    /// Kernel release, or build of the operating system; informational.
    pub kernel: String,
    /// What only aarch64 has; `None` for another architecture.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arm64: Option<FingerprintArm64>,
}

impl StatePayload for Fingerprint {
    const KIND: SectionKind = SectionKind::FINGERPRINT;
    const VERSION: u16 = 2;

    fn encode(&self) -> Vec<u8> {
        let wire: v2::FingerprintV2 = self.mirror();
        codec::encode(&wire)
    }

    fn decode(version: u16, bytes: &[u8]) -> Result<Self, DecodeError> {
        let (part, limit) = (Self::KIND.part(0), limits::MAX_FINGERPRINT_BYTES);
        let fingerprint: Self = match version {
            1 => codec::decode::<v1::FingerprintV1>(bytes, limit, part, version)?.mirror(),
            2 => codec::decode::<v2::FingerprintV2>(bytes, limit, part, version)?.mirror(),
            _ => return Err(unknown_version(Self::KIND, version, Self::VERSION)),
        };
        let id_registers = fingerprint.arm64.as_ref().map(|arm| arm.id_registers.len());
        check_counts(
            Self::KIND,
            &[
                (
                    "bytes of a CPU vendor",
                    fingerprint.vendor.len(),
                    limits::MAX_HOST_TEXT_BYTES,
                ),
                (
                    "bytes of a kernel release",
                    fingerprint.kernel.len(),
                    limits::MAX_HOST_TEXT_BYTES,
                ),
                (
                    "CPUID entries",
                    fingerprint.cpuid.len(),
                    limits::MAX_CPUID_ENTRIES,
                ),
                ("MSRs", fingerprint.msrs.len(), limits::MAX_MSRS),
                (
                    "capabilities",
                    fingerprint.capabilities.len(),
                    limits::MAX_CAPABILITIES,
                ),
                (
                    "ID registers",
                    id_registers.unwrap_or(0),
                    limits::MAX_ID_REGISTERS,
                ),
            ],
        )?;
        Ok(fingerprint)
    }
}
