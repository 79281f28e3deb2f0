//! The state of one aarch64 vCPU, in the words of the architecture.

mod pending;
mod registers;
mod v1;
mod vectors;

use serde::Serialize;

pub use pending::{PendingArm64, PowerState, SError, Timer, TimersArm64};
pub use registers::{CoreArm64, SimdArm64};
pub use vectors::{SmeArm64, SveArm64};

use crate::codec;
use crate::error::DecodeError;
use crate::limits;
use crate::section::{SectionKind, StatePayload};
use crate::state::bytes::as_hex_number;
use crate::state::counts::{check_counts, unknown_version};
use crate::state::hypervisor::HypervisorRegister;
use crate::state::mirror::Mirror;
use crate::state::system_register::SystemRegister;

/// What `KVM_ARM_VCPU_INIT` was told (`struct kvm_vcpu_init`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct KvmInit {
    /// `KVM_ARM_TARGET_*`.
    pub target: u32,
    /// Bit n of word w is feature 32 w + n, without `KVM_ARM_VCPU_POWER_OFF`: see
    /// [`VcpuArm64::power`].
    pub features: [u32; 7],
}

/// What of the guest's debugging exits to the VMM.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct DebugTraps {
    /// Debug exceptions.
    pub exceptions: bool,
    /// Accesses to debug registers.
    pub register_accesses: bool,
}

/// Everything that a hypervisor keeps of one aarch64 vCPU.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct VcpuArm64 {
    /// Its number, from 0, in the order of creation.
    pub id: u32,
    /// Its affinity, which also names its redistributor.
    #[serde(serialize_with = "as_hex_number")]
    pub mpidr: u64,
    /// Whether it runs.
    pub power: PowerState,
    /// General registers.
    pub core: CoreArm64,
    /// Floating-point registers.
    pub simd: SimdArm64,
    /// Scalable vectors; `None` where the guest has none.
    pub sve: Option<SveArm64>,
    /// Scalable matrices; `None` where the guest has none.
    pub sme: Option<SmeArm64>,
    /// System registers, debug registers among them, sorted by encoding, each once. Those that
    /// have a field of their own here are not repeated.
    pub system: Vec<SystemRegister>,
    /// Timers.
    pub timers: TimersArm64,
    /// Pending exceptions.
    pub pending: PendingArm64,
    /// Registers of the CPU interface of a GICv3 (`ICC_*`), sorted by encoding, each once; empty
    /// without one.
    pub icc: Vec<SystemRegister>,
    /// Debug traps.
    pub debug_traps: DebugTraps,
    /// Where the hypervisor tells the guest its stolen time (PVTIME); `None` where it does not.
    pub stolen_time_address: Option<u64>,
    /// Interrupt of the performance monitors; `None` where there are none.
    pub pmu_interrupt: Option<u32>,
    /// How KVM made the vCPU; `None` from another hypervisor.
    pub kvm_init: Option<KvmInit>,
    /// Registers that only one hypervisor has, sorted, each once.
    pub extras: Vec<HypervisorRegister>,
}

impl VcpuArm64 {
    fn check(&self) -> Result<(), DecodeError> {
        let (registers, extras) = (limits::MAX_SYSTEM_REGISTERS, self.extras.len());
        let counts = [
            ("system registers of a vCPU", self.system.len(), registers),
            (
                "ICC registers of a vCPU",
                self.icc.len(),
                limits::MAX_ICC_REGISTERS,
            ),
            (
                "hypervisor's registers of a vCPU",
                extras,
                limits::MAX_HYPERVISOR_REGISTERS,
            ),
        ];
        check_counts(Self::KIND, &counts)?;
        let sorted = self.system.is_sorted_by(|a, b| a.id < b.id)
            && self.icc.is_sorted_by(|a, b| a.id < b.id)
            && self
                .extras
                .is_sorted_by(|a, b| (a.hypervisor, a.id) < (b.hypervisor, b.id));
        if !sorted {
            return Err(DecodeError::Invalid {
                part: Self::KIND.part(self.id),
                offset: 0,
                rule: "registers are sorted, and each is there once",
                found: 0,
            });
        }
        if let Some(sve) = &self.sve {
            // In streaming mode V0 to V31 are those of the streaming vectors.
            let streaming = self.sme.as_ref().is_some_and(|sme| sme.streaming);
            let own = SimdArm64 {
                v: sve.low_halves(),
                ..self.simd
            };
            sve.check(if streaming { &own } else { &self.simd })?;
        }
        self.sme
            .as_ref()
            .map_or(Ok(()), |sme| sme.check(&self.simd))
    }
}

impl StatePayload for VcpuArm64 {
    const KIND: SectionKind = SectionKind::VCPU_AARCH64;
    const VERSION: u16 = 1;

    fn encode(&self) -> Vec<u8> {
        let wire: v1::VcpuArm64V1 = self.mirror();
        codec::encode(&wire)
    }

    fn decode(version: u16, bytes: &[u8]) -> Result<Self, DecodeError> {
        let vcpu: Self = match version {
            1 => {
                let (part, limit) = (Self::KIND.part(0), limits::MAX_VCPU_BYTES);
                codec::decode::<v1::VcpuArm64V1>(bytes, limit, part, version)?.mirror()
            }
            _ => return Err(unknown_version(Self::KIND, version, Self::VERSION)),
        };
        vcpu.check()?;
        Ok(vcpu)
    }
}

#[cfg(test)]
mod tests;
