//! The state of an aarch64 machine that belongs to no single vCPU, interrupt controller apart.

mod v1;

use serde::Serialize;

use crate::codec;
use crate::error::DecodeError;
use crate::limits;
use crate::section::{SectionKind, StatePayload};
use crate::state::counts::unknown_version;
use crate::state::hypervisor::Hypervisor;
use crate::state::mirror::Mirror;

/// Which interrupt controller the hypervisor models.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum GicVersion {
    /// None: the VMM models one, or there is none.
    #[default]
    None,
    /// GICv2.
    V2,
    /// GICv3.
    V3,
}

/// How the guest's two counters relate to the host's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CounterOffset {
    /// One offset for both: the guest's virtual count and its physical count are the same.
    #[default]
    Shared,
    /// The virtual counter alone has one; the physical count is another.
    Separate,
}

/// What an aarch64 machine has once.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct VmArm64 {
    /// Whose state it is.
    pub hypervisor: Hypervisor,
    /// How many vCPU sections belong to the machine.
    pub vcpu_count: u32,
    /// Bits of a guest physical address.
    pub address_bits: u8,
    /// Ticks of the guest's counters in a second (`CNTFRQ_EL0`); 0 where it is not known.
    pub counter_hz: u64,
    /// How its counters relate to the host's.
    pub counter_offset: CounterOffset,
    /// The host's wall clock at the pause, in nanoseconds since 1970; only for a restore that is
    /// asked to let the counters advance by the time that has passed.
    pub wall_clock_ns: u64,
    /// Its interrupt controller: which section must be there.
    pub gic: GicVersion,
    /// Whether the guest has EL2, and may run guests of its own.
    pub el2: bool,
}

impl Mirror<v1::GicVersionV1> for GicVersion {
    fn mirror(&self) -> v1::GicVersionV1 {
        match self {
            Self::None => v1::GicVersionV1::None,
            Self::V2 => v1::GicVersionV1::V2,
            Self::V3 => v1::GicVersionV1::V3,
        }
    }
}

impl Mirror<GicVersion> for v1::GicVersionV1 {
    fn mirror(&self) -> GicVersion {
        match self {
            Self::None => GicVersion::None,
            Self::V2 => GicVersion::V2,
            Self::V3 => GicVersion::V3,
        }
    }
}

impl Mirror<v1::CounterOffsetV1> for CounterOffset {
    fn mirror(&self) -> v1::CounterOffsetV1 {
        match self {
            Self::Shared => v1::CounterOffsetV1::Shared,
            Self::Separate => v1::CounterOffsetV1::Separate,
        }
    }
}

impl Mirror<CounterOffset> for v1::CounterOffsetV1 {
    fn mirror(&self) -> CounterOffset {
        match self {
            Self::Shared => CounterOffset::Shared,
            Self::Separate => CounterOffset::Separate,
        }
    }
}

impl StatePayload for VmArm64 {
    const KIND: SectionKind = SectionKind::VM_AARCH64;
    const VERSION: u16 = 1;

    fn encode(&self) -> Vec<u8> {
        let wire: v1::VmArm64V1 = self.mirror();
        codec::encode(&wire)
    }

    fn decode(version: u16, bytes: &[u8]) -> Result<Self, DecodeError> {
        match version {
            1 => {
                let (part, limit) = (Self::KIND.part(0), limits::MAX_VM_STATE_BYTES);
                Ok(codec::decode::<v1::VmArm64V1>(bytes, limit, part, version)?.mirror())
            }
            _ => Err(unknown_version(Self::KIND, version, Self::VERSION)),
        }
    }
}
