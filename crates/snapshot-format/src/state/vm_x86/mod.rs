//! The state of an x86-64 machine that belongs to no single vCPU.

mod irqchip;
mod v1;

use serde::Serialize;

pub use irqchip::{IoApic, Pic, Pit, PitChannel};

use crate::codec;
use crate::error::DecodeError;
use crate::limits;
use crate::section::{SectionKind, StatePayload};
use crate::state::counts::unknown_version;
use crate::state::mirror::Mirror;

/// The paravirtual clock (`struct kvm_clock_data`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Clock {
    /// The guest's clock in nanoseconds.
    pub clock_ns: u64,
    /// `KVM_CLOCK_*`: which of the others count.
    pub flags: u32,
    /// The host's wall clock at the same instant, in nanoseconds.
    pub realtime_ns: u64,
    /// The host's TSC at the same instant.
    pub host_tsc: u64,
}

/// Interrupt controllers, timer and clock; each `None` where the machine has none in the kernel.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct VmX86 {
    /// How many vCPU sections belong to the machine; at most [`limits::MAX_VCPUS`], which whoever
    /// restores compares with its own vCPUs.
    pub vcpu_count: u32,
    /// The timer.
    pub pit: Option<Pit>,
    /// The first interrupt controller.
    pub pic_master: Option<Pic>,
    /// The second.
    pub pic_slave: Option<Pic>,
    /// The I/O APIC.
    pub ioapic: Option<IoApic>,
    /// The clock.
    pub clock: Option<Clock>,
}

impl StatePayload for VmX86 {
    const KIND: SectionKind = SectionKind::VM_X86_64;
    const VERSION: u16 = 1;

    fn encode(&self) -> Vec<u8> {
        let wire: v1::VmV1 = self.mirror();
        codec::encode(&wire)
    }

    fn decode(version: u16, bytes: &[u8]) -> Result<Self, DecodeError> {
        let vm: Self = match version {
            1 => {
                let part = Self::KIND.part(0);
                codec::decode::<v1::VmV1>(bytes, limits::MAX_VM_STATE_BYTES, part, version)?
                    .mirror()
            }
            _ => return Err(unknown_version(Self::KIND, version, Self::VERSION)),
        };
        Ok(vm)
    }
}
