//! A GICv3: distributor, redistributors, translation services, interrupt lines.

use serde::Serialize;

use super::{GicRegister, check_sorted, v1};
use crate::codec;
use crate::error::DecodeError;
use crate::limits;
use crate::section::{SectionKind, StatePayload};
use crate::state::bytes::{as_hex_number, as_hex_numbers};
use crate::state::counts::{check_counts, unknown_version};
use crate::state::mirror::Mirror;

/// Redistributors that lie back to back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct RedistributorRegion {
    /// Guest physical address of the first.
    #[serde(serialize_with = "as_hex_number")]
    pub base: u64,
    /// How many there is room for; 0: for every vCPU of the machine.
    pub count: u32,
}

/// A frame that turns writes of messages into shared interrupts, without an ITS.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct MsiFrame {
    /// Its guest physical address.
    #[serde(serialize_with = "as_hex_number")]
    pub base: u64,
    /// The first interrupt.
    pub first_interrupt: u32,
    /// How many.
    pub count: u32,
}

/// How the controller was made: the target's must be made the same.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct GicV3Config {
    /// `GICD_IIDR`: maker and revision, which selects what some registers mean.
    #[serde(serialize_with = "as_hex_number")]
    pub implementer: u32,
    /// Interrupts: private ones included, so that INTIDs 0 to this number less one exist.
    pub interrupts: u32,
    /// Guest physical address of the distributor.
    #[serde(serialize_with = "as_hex_number")]
    pub distributor_base: u64,
    /// The redistributors, in the order in which they are given to vCPUs.
    pub redistributors: Vec<RedistributorRegion>,
    /// The frame for messages, if there is one.
    pub msi: Option<MsiFrame>,
}

/// The part of one vCPU.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Redistributor {
    /// Affinity of its vCPU.
    #[serde(serialize_with = "as_hex_number")]
    pub mpidr: u64,
    /// Registers by offset from `RD_base`; the frame of private interrupts begins at 0x10000.
    pub registers: Vec<GicRegister>,
    /// Bit n: the input of private interrupt n is asserted.
    #[serde(serialize_with = "as_hex_number")]
    pub lines: u32,
}

/// An interrupt translation service. Its tables are in guest memory.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Its {
    /// Its guest physical address.
    #[serde(serialize_with = "as_hex_number")]
    pub base: u64,
    /// Registers by offset.
    pub registers: Vec<GicRegister>,
}

/// A GICv3, register by register.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct GicV3 {
    /// How it was made.
    pub config: GicV3Config,
    /// Registers of the distributor, without `GICD_IIDR`. Of a pair that sets and clears the same
    /// bits, only the one that sets is there.
    pub distributor: Vec<GicRegister>,
    /// Redistributors, in the order of the vCPUs.
    pub redistributors: Vec<Redistributor>,
    /// Bit n of word w: the input of shared interrupt 32 + 32 w + n is asserted.
    #[serde(serialize_with = "as_hex_numbers")]
    pub lines: Vec<u32>,
    /// Translation services.
    pub its: Vec<Its>,
}

impl GicV3 {
    fn check(&self) -> Result<(), DecodeError> {
        let most = |lens: &mut dyn Iterator<Item = usize>| lens.max().unwrap_or(0);
        let of_cpu = most(&mut self.redistributors.iter().map(|r| r.registers.len()));
        let of_its = most(&mut self.its.iter().map(|its| its.registers.len()));
        let counts = [
            (
                "redistributor regions",
                self.config.redistributors.len(),
                limits::MAX_REDISTRIBUTOR_REGIONS,
            ),
            (
                "registers of a distributor",
                self.distributor.len(),
                limits::MAX_DISTRIBUTOR_REGISTERS,
            ),
            (
                "redistributors",
                self.redistributors.len(),
                limits::MAX_VCPUS,
            ),
            (
                "registers of a redistributor",
                of_cpu,
                limits::MAX_REDISTRIBUTOR_REGISTERS,
            ),
            (
                "words of interrupt lines",
                self.lines.len(),
                limits::MAX_LINE_WORDS,
            ),
            ("translation services", self.its.len(), limits::MAX_ITS),
            (
                "registers of a translation service",
                of_its,
                limits::MAX_ITS_REGISTERS,
            ),
        ];
        check_counts(Self::KIND, &counts)?;
        let offset = |register: &GicRegister| register.offset;
        check_sorted(Self::KIND, &self.distributor, offset)?;
        let of_cpus = self.redistributors.iter().map(|r| &r.registers);
        let mut lists = of_cpus.chain(self.its.iter().map(|its| &its.registers));
        lists.try_for_each(|registers| check_sorted(Self::KIND, registers, offset))
    }
}

impl StatePayload for GicV3 {
    const KIND: SectionKind = SectionKind::GIC;
    const VERSION: u16 = 1;

    fn encode(&self) -> Vec<u8> {
        let wire: v1::GicV3V1 = self.mirror();
        codec::encode(&wire)
    }

    fn decode(version: u16, bytes: &[u8]) -> Result<Self, DecodeError> {
        let gic: Self = match version {
            1 => {
                let (part, limit) = (Self::KIND.part(0), limits::MAX_GIC_BYTES);
                codec::decode::<v1::GicV3V1>(bytes, limit, part, version)?.mirror()
            }
            _ => return Err(unknown_version(Self::KIND, version, Self::VERSION)),
        };
        gic.check()?;
        Ok(gic)
    }
}
