//! A GICv2, as hosts without a GICv3 model it.

use serde::Serialize;

use super::{GicRegister, check_sorted, v1};
use crate::codec;
use crate::error::DecodeError;
use crate::limits;
use crate::section::{SectionKind, StatePayload};
use crate::state::bytes::as_hex_number;
use crate::state::counts::{check_counts, unknown_version};
use crate::state::mirror::Mirror;

/// A register that every vCPU has one of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize)]
pub struct BankedRegister {
    /// Number of the vCPU.
    pub vcpu: u32,
    /// Offset from the start of its frame, in bytes.
    #[serde(serialize_with = "as_hex_number")]
    pub offset: u32,
    /// Its value.
    #[serde(serialize_with = "as_hex_number")]
    pub value: u32,
}

/// A GICv2, register by register.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct GicV2 {
    /// `GICD_IIDR`: maker and revision.
    #[serde(serialize_with = "as_hex_number")]
    pub implementer: u32,
    /// Interrupts: private ones included.
    pub interrupts: u32,
    /// Guest physical address of the distributor.
    #[serde(serialize_with = "as_hex_number")]
    pub distributor_base: u64,
    /// Guest physical address of the CPU interfaces.
    #[serde(serialize_with = "as_hex_number")]
    pub interface_base: u64,
    /// Registers of the distributor that there is one of, without `GICD_IIDR`.
    pub distributor: Vec<GicRegister>,
    /// Registers of the distributor that each vCPU has one of, those of interrupts 0 to 31: sorted
    /// by vCPU and offset.
    pub banked: Vec<BankedRegister>,
    /// Registers of the CPU interfaces, sorted in the same way.
    pub interfaces: Vec<BankedRegister>,
}

impl GicV2 {
    fn check(&self) -> Result<(), DecodeError> {
        let counts = [
            (
                "registers of a distributor",
                self.distributor.len(),
                limits::MAX_DISTRIBUTOR_REGISTERS,
            ),
            (
                "registers of CPU interfaces",
                self.banked.len().max(self.interfaces.len()),
                limits::MAX_BANKED_REGISTERS,
            ),
        ];
        check_counts(Self::KIND, &counts)?;
        check_sorted(Self::KIND, &self.distributor, |register| register.offset)?;
        [&self.banked, &self.interfaces]
            .into_iter()
            .try_for_each(|list| check_sorted(Self::KIND, list, |r| (r.vcpu, r.offset)))
    }
}

impl StatePayload for GicV2 {
    const KIND: SectionKind = SectionKind::GIC_V2;
    const VERSION: u16 = 1;

    fn encode(&self) -> Vec<u8> {
        let wire: v1::GicV2V1 = self.mirror();
        codec::encode(&wire)
    }

    fn decode(version: u16, bytes: &[u8]) -> Result<Self, DecodeError> {
        let gic: Self = match version {
            1 => {
                let (part, limit) = (Self::KIND.part(0), limits::MAX_GIC_BYTES);
                codec::decode::<v1::GicV2V1>(bytes, limit, part, version)?.mirror()
            }
            _ => return Err(unknown_version(Self::KIND, version, Self::VERSION)),
        };
        gic.check()?;
        Ok(gic)
    }
}
