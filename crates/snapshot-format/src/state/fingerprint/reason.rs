//! Why a snapshot cannot be brought back on a host, or into a machine.

use serde::Serialize;

use super::kind::ReasonKind;
use crate::section::SectionKind;
use crate::state::bytes::ByteStateError;
use crate::state::hypervisor::Hypervisor;
use crate::state::system_register::SystemRegisterId;
use crate::state::vm_arm64::GicVersion;

/// Why a snapshot cannot run on a host.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error, Serialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// Another architecture.
    #[error("the snapshot is for architecture {saved}, the host is {host}")]
    Architecture {
        /// Of the snapshot.
        saved: u16,
        /// Of the host.
        host: u16,
    },
    /// Another host page size.
    #[error("the snapshot was taken with host pages of {saved} bytes, the host has {host}")]
    PageSize {
        /// Of the snapshot.
        saved: u32,
        /// Of the host.
        host: u32,
    },
    /// Another maker of CPUs.
    #[error("the snapshot was taken on a CPU of {saved:?}, the host's is of {host:?}")]
    Vendor {
        /// Of the snapshot.
        saved: String,
        /// Of the host.
        host: String,
    },
    /// Another CPU model.
    #[error(
        "the snapshot was taken on CPU family {saved_family} model {saved_model}, the host's is \
         family {host_family} model {host_model}"
    )]
    Model {
        /// Family of the snapshot.
        saved_family: u32,
        /// Model of the snapshot.
        saved_model: u32,
        /// Family of the host.
        host_family: u32,
        /// Model of the host.
        host_model: u32,
    },
    /// CPU features that the guest was shown and the host lacks.
    #[error(
        "the guest was shown CPUID {function:#x}.{index} {register} bits {missing:#x}, which the \
         host lacks"
    )]
    Cpuid {
        /// The leaf.
        function: u32,
        /// The sub-leaf.
        index: u32,
        /// The register of the answer.
        register: &'static str,
        /// The bits that the host lacks.
        missing: u32,
    },
    /// A register that holds a value and that the host does not know.
    #[error("the guest uses MSR {index:#x}, which the host does not know")]
    Msr {
        /// Its number.
        index: u32,
    },
    /// Another TSC frequency, and the host cannot scale.
    #[error(
        "the guest's TSC runs at {saved_khz} kHz, the host's at {host_khz} kHz, and the host \
         cannot scale it"
    )]
    TscFrequency {
        /// Of the snapshot.
        saved_khz: u32,
        /// Of the host.
        host_khz: u32,
    },
    /// An extension of the hypervisor that the machine uses and the host lacks.
    #[error("the machine uses hypervisor capability {number}, which the host lacks")]
    Capability {
        /// Its number.
        number: u32,
    },
    /// The guest's clock is to take up the time that has passed, and nothing says how much.
    #[error("the guest's clock cannot advance: {missing}; let it go on where it stopped")]
    WallClock {
        /// What is missing, and where.
        missing: &'static str,
    },
    /// Another hypervisor: what crosses is in `specs/11-arm64-state.md`.
    #[error("the snapshot was taken under {saved}, the host runs {host}")]
    Hypervisor {
        /// Of the snapshot.
        saved: Hypervisor,
        /// Of the host.
        host: Hypervisor,
    },
    /// A field of an ID register that is lower on the host than what the guest was shown.
    #[error(
        "the guest was shown {saved:#x} in {register} from bit {shift}, the host has {host:#x}"
    )]
    IdRegister {
        /// The register.
        register: SystemRegisterId,
        /// The lowest bit of the field.
        shift: u8,
        /// The field of the snapshot.
        saved: u64,
        /// The field of the host.
        host: u64,
    },
    /// Another frequency of the counter, which no host scales.
    #[error("the guest's counter runs at {saved_hz} Hz, the host's at {host_hz} Hz")]
    CounterFrequency {
        /// Of the snapshot.
        saved_hz: u64,
        /// Of the host.
        host_hz: u64,
    },
    /// Guest physical addresses of more bits than the host has.
    #[error("the machine has guest addresses of {saved} bits, the host at most {host}")]
    AddressBits {
        /// Of the snapshot.
        saved: u8,
        /// Of the host.
        host: u8,
    },
    /// An interrupt controller that the host does not model.
    #[error(
        "the machine has an interrupt controller {saved:?} of {saved_interrupts} interrupts, the \
         host models {host:?} of up to {host_interrupts}"
    )]
    Gic {
        /// Of the snapshot.
        saved: GicVersion,
        /// Interrupts of the snapshot.
        saved_interrupts: u32,
        /// Of the host.
        host: GicVersion,
        /// Interrupts of the host.
        host_interrupts: u32,
    },
    /// Lengths of vectors that the host cannot show the guest.
    #[error(
        "the guest was shown other {what} vector lengths than the host can show: \
         {saved:x?}, not {host:x?}"
    )]
    VectorLengths {
        /// Of which extension.
        what: &'static str,
        /// Of the snapshot: bit n of word w stands for (64 w + n + 1) × 16 bytes.
        saved: [u64; 8],
        /// Of the host.
        host: [u64; 8],
    },
    /// Features that no ID register tells, which the machine uses and the host lacks.
    #[error("the machine uses features {missing:#x}, which the host lacks")]
    Features {
        /// Bits of `FingerprintArm64`.
        missing: u64,
    },
    /// The machine that the state is for is built otherwise than the target.
    #[error("the snapshot has {saved} {what}, the target has {target}")]
    Shape {
        /// What is counted: vCPUs, interrupt controllers.
        what: &'static str,
        /// How many the snapshot has.
        saved: u64,
        /// How many the target has.
        target: u64,
    },
    /// A section that the target needs and the snapshot lacks.
    #[error("the snapshot has no section {section} {instance}, which the target needs")]
    MissingSection {
        /// Its kind.
        section: SectionKind,
        /// Which of its kind.
        instance: u32,
    },
    /// A critical section that nothing of the target takes.
    #[error("the target has nothing that takes section {section} {instance}")]
    SurplusSection {
        /// Its kind.
        section: SectionKind,
        /// Which of its kind.
        instance: u32,
    },
    /// State whose bytes the host does not take.
    #[error("vCPU {vcpu}, {what}: {problem}")]
    Bytes {
        /// The vCPU.
        vcpu: u32,
        /// Which state.
        what: &'static str,
        /// How they do not fit.
        problem: ByteStateError,
    },
    /// A capability that the VMM enabled for the machine that was saved, and not for the target.
    #[error(
        "vCPU {vcpu} has state that counts only with hypervisor capability {number} enabled, which \
         the target was made without"
    )]
    NotEnabled {
        /// The vCPU.
        vcpu: u32,
        /// The capability.
        number: u32,
    },
    /// A run state that the target does not know, or that its parts make impossible.
    #[error("vCPU {vcpu}: the target cannot be put into run state {state}")]
    RunState {
        /// The vCPU.
        vcpu: u32,
        /// In the numbers of the hypervisor.
        state: u32,
    },
    /// A route of an interrupt that leads to nothing that the target has.
    #[error("interrupt line {gsi} is routed in a way ({kind}) or to a pin that the target has not")]
    Route {
        /// The line.
        gsi: u32,
        /// The kind of route, in the numbers of the hypervisor.
        kind: u32,
    },
    /// A register whose saved value the host does not take.
    #[error("vCPU {vcpu}: the host refuses {value:#x} in {what} {number:#x}")]
    Value {
        /// The vCPU.
        vcpu: u32,
        /// Which kind of register.
        what: &'static str,
        /// Its number.
        number: u64,
        /// The saved value.
        value: u64,
    },
}

impl Reason {
    /// What to name in order to override it.
    #[must_use]
    pub fn kind(&self) -> ReasonKind {
        match self {
            Self::Architecture { .. } => ReasonKind::Architecture,
            Self::PageSize { .. } => ReasonKind::PageSize,
            Self::Vendor { .. } => ReasonKind::Vendor,
            Self::Model { .. } => ReasonKind::Model,
            Self::Cpuid { .. } => ReasonKind::Cpuid,
            Self::Msr { .. } => ReasonKind::Msr,
            Self::TscFrequency { .. } => ReasonKind::TscFrequency,
            Self::Capability { .. } => ReasonKind::Capability,
            Self::WallClock { .. } => ReasonKind::Clock,
            Self::Hypervisor { .. } => ReasonKind::Hypervisor,
            Self::IdRegister { .. } => ReasonKind::IdRegister,
            Self::CounterFrequency { .. } => ReasonKind::CounterFrequency,
            Self::AddressBits { .. } => ReasonKind::AddressBits,
            Self::Gic { .. } => ReasonKind::Gic,
            Self::VectorLengths { .. } => ReasonKind::VectorLengths,
            Self::Features { .. } => ReasonKind::Features,
            Self::Shape { .. } | Self::NotEnabled { .. } | Self::Route { .. } => {
                ReasonKind::Machine
            }
            Self::MissingSection { .. }
            | Self::SurplusSection { .. }
            | Self::Bytes { .. }
            | Self::RunState { .. }
            | Self::Value { .. } => ReasonKind::State,
        }
    }
}
