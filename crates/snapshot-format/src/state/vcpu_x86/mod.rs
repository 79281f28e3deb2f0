//! The state of one x86-64 vCPU.

mod events;
mod features;
mod registers;
mod v1;
mod v2;

use serde::Serialize;

pub use events::{EventInterrupt, EventNmi, EventSmi, ExceptionEvent, VcpuEvents};
pub use features::{CpuidEntry, Msr};
pub use registers::{DebugRegisters, DescriptorTable, Registers, Segment, SpecialRegisters, Xcr};

use crate::codec;
use crate::error::DecodeError;
use crate::limits;
use crate::section::{SectionKind, StatePayload};
use crate::state::bytes::as_hex;
use crate::state::counts::{check_counts, unknown_version};
use crate::state::mirror::Mirror;

/// Everything that KVM keeps of one x86-64 vCPU.
///
/// What the compatibility gate and `inspect` read is typed; `xsave`, `lapic` and `nested` are
/// bytes in the layout of the architecture, see [`fit_bytes`](crate::state::fit_bytes).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct VcpuX86 {
    /// The number that the vCPU was created with: its initial APIC id.
    pub id: u32,
    /// `KVM_MP_STATE_*`.
    pub mp_state: u32,
    /// General registers.
    pub registers: Registers,
    /// System registers.
    pub special: SpecialRegisters,
    /// Debug registers.
    pub debug: DebugRegisters,
    /// Extended control registers.
    pub xcrs: Vec<Xcr>,
    /// Waiting events.
    pub events: VcpuEvents,
    /// Frequency of the guest's TSC in kHz; 0 where the kernel does not say.
    pub tsc_khz: u32,
    /// What is added to the host's TSC; `None` where the kernel does not say.
    pub tsc_offset: Option<u64>,
    /// CPUID as KVM really answers it.
    pub cpuid: Vec<CpuidEntry>,
    /// Model-specific registers, in the order in which they are written back.
    pub msrs: Vec<Msr>,
    /// The XSAVE area.
    #[serde(serialize_with = "as_hex")]
    pub xsave: Vec<u8>,
    /// The local APIC page; empty without an in-kernel one.
    #[serde(serialize_with = "as_hex")]
    pub lapic: Vec<u8>,
    /// State of a nested guest; empty without one.
    #[serde(serialize_with = "as_hex")]
    pub nested: Vec<u8>,
    /// The TSC value at which the local APIC's timer was to fire, as read before the local APIC;
    /// 0 if it was not armed, `None` where only `msrs` has it. In `msrs` it reads 0 if it fired
    /// between the two, and the interrupt is in neither.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub armed_deadline: Option<u64>,
    /// The shadow stack pointer; `None` for a guest without shadow stacks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest_ssp: Option<u64>,
}

impl VcpuX86 {
    fn check_limits(&self) -> Result<(), DecodeError> {
        let counts = [
            ("xcrs of a vCPU", self.xcrs.len(), limits::MAX_XCRS),
            (
                "CPUID entries of a vCPU",
                self.cpuid.len(),
                limits::MAX_CPUID_ENTRIES,
            ),
            ("MSRs of a vCPU", self.msrs.len(), limits::MAX_MSRS),
            ("XSAVE bytes", self.xsave.len(), limits::MAX_XSAVE_BYTES),
            (
                "local APIC bytes",
                self.lapic.len(),
                limits::MAX_LAPIC_BYTES,
            ),
            (
                "nested state bytes",
                self.nested.len(),
                limits::MAX_NESTED_BYTES,
            ),
        ];
        check_counts(Self::KIND, &counts)
    }
}

impl StatePayload for VcpuX86 {
    const KIND: SectionKind = SectionKind::VCPU_X86_64;
    const VERSION: u16 = 2;

    fn encode(&self) -> Vec<u8> {
        let wire: v2::VcpuV2 = self.mirror();
        codec::encode(&wire)
    }

    fn decode(version: u16, bytes: &[u8]) -> Result<Self, DecodeError> {
        let (part, limit) = (Self::KIND.part(0), limits::MAX_VCPU_BYTES);
        let vcpu: Self = match version {
            1 => codec::decode::<v1::VcpuV1>(bytes, limit, part, version)?.mirror(),
            2 => codec::decode::<v2::VcpuV2>(bytes, limit, part, version)?.mirror(),
            _ => return Err(unknown_version(Self::KIND, version, Self::VERSION)),
        };
        vcpu.check_limits()?;
        Ok(vcpu)
    }
}
