//! The state of an x86-64 machine that belongs to no single vCPU.

mod irqchip;
mod route;
mod v1;
mod v2;

use serde::Serialize;

pub use irqchip::{IoApic, Pic, Pit, PitChannel};
pub use route::GsiRoute;

use crate::codec;
use crate::error::DecodeError;
use crate::limits;
use crate::section::{SectionKind, StatePayload};
use crate::state::counts::{check_counts, unknown_version};
use crate::state::mirror::Mirror;

/// The paravirtual clock (`struct kvm_clock_data`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Clock {
    /// The guest's clock in nanoseconds.
    pub clock_ns: u64,
    /// `KVM_CLOCK_*`: which of the others count.
    pub flags: u32,
    /// The host's wall clock at the same instant, in nanoseconds. Without `KVM_CLOCK_REALTIME` in
    /// the flags it was read by who saved, a little later; 0 where it is not known.
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
    /// With the local APICs alone in the kernel: how many lines the VMM reserved for its own I/O
    /// APIC (`KVM_CAP_SPLIT_IRQCHIP`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split_lines: Option<u32>,
    /// The routing table of the machine's interrupts, as the VMM last set it; `None` where it never
    /// did. The kernel does not give it back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routes: Option<Vec<GsiRoute>>,
}

impl StatePayload for VmX86 {
    const KIND: SectionKind = SectionKind::VM_X86_64;
    const VERSION: u16 = 2;

    fn encode(&self) -> Vec<u8> {
        let wire: v2::VmV2 = self.mirror();
        codec::encode(&wire)
    }

    fn decode(version: u16, bytes: &[u8]) -> Result<Self, DecodeError> {
        let (part, limit) = (Self::KIND.part(0), limits::MAX_VM_STATE_BYTES);
        let vm: Self = match version {
            1 => codec::decode::<v1::VmV1>(bytes, limit, part, version)?.mirror(),
            2 => codec::decode::<v2::VmV2>(bytes, limit, part, version)?.mirror(),
            _ => return Err(unknown_version(Self::KIND, version, Self::VERSION)),
        };
        let routes = vm.routes.as_ref().map_or(0, Vec::len);
        let counts = [("GSI routes", routes, limits::MAX_GSI_ROUTES)];
        check_counts(Self::KIND, &counts)?;
        Ok(vm)
    }
}
