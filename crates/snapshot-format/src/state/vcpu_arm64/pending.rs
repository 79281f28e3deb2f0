//! Timers, pending exceptions and the power state of an aarch64 vCPU.

use serde::Serialize;

use crate::state::bytes::as_hex_number;
use crate::state::mirror::Mirror;

use super::v1;

/// One comparator of the generic timer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Timer {
    /// `CNTx_CTL_EL0`: enable, mask, and the status, which no reader writes.
    #[serde(serialize_with = "as_hex_number")]
    pub control: u64,
    /// `CNTx_CVAL_EL0`: when it fires, in ticks of its counter.
    #[serde(serialize_with = "as_hex_number")]
    pub compare: u64,
}

/// The generic timers, by what they mean and not by encoding: KVM's numbers for the count and the
/// comparator of the virtual timer are those of each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct TimersArm64 {
    /// What the guest read in `CNTVCT_EL0` when it was paused. That of the first vCPU counts for
    /// the machine.
    #[serde(serialize_with = "as_hex_number")]
    pub virtual_count: u64,
    /// The same of `CNTPCT_EL0`; 0 where the hypervisor does not say.
    #[serde(serialize_with = "as_hex_number")]
    pub physical_count: u64,
    /// The virtual timer.
    pub virtual_timer: Timer,
    /// The physical timer.
    pub physical_timer: Timer,
    /// The hypervisor holds the virtual timer's interrupt back until the guest has handled the
    /// last one: Hypervisor.framework without its interrupt controller.
    pub virtual_masked: bool,
}

/// A pending `SError`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct SError {
    /// Its syndrome, where it has one.
    pub syndrome: Option<u64>,
}

/// Exceptions that wait for the vCPU and are in no register.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct PendingArm64 {
    /// An `SError`.
    pub serror: Option<SError>,
    /// An external data abort for the instruction that it stopped at.
    pub external_abort: bool,
    /// The IRQ line is asserted by a model of an interrupt controller in the VMM.
    pub irq: bool,
    /// The same of the FIQ line.
    pub fiq: bool,
}

/// Whether the vCPU runs, as PSCI sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
#[non_exhaustive]
pub enum PowerState {
    /// It runs.
    #[default]
    On,
    /// It waits for `CPU_ON`.
    Off,
    /// `CPU_ON` was called and it has not run since: its registers are those of a reset, but for
    /// these two.
    OnPending {
        /// Where it starts.
        #[serde(serialize_with = "as_hex_number")]
        entry: u64,
        /// What it finds in X0.
        #[serde(serialize_with = "as_hex_number")]
        context: u64,
    },
    /// It waits for a wake-up event after `SYSTEM_SUSPEND` or `CPU_SUSPEND`.
    Suspended,
    /// It waits in `WFI`, which its program counter is behind already.
    WaitingForInterrupt,
}

impl Mirror<v1::PowerStateV1> for PowerState {
    fn mirror(&self) -> v1::PowerStateV1 {
        match *self {
            Self::On => v1::PowerStateV1::On,
            Self::Off => v1::PowerStateV1::Off,
            Self::OnPending { entry, context } => v1::PowerStateV1::OnPending { entry, context },
            Self::Suspended => v1::PowerStateV1::Suspended,
            Self::WaitingForInterrupt => v1::PowerStateV1::WaitingForInterrupt,
        }
    }
}

impl Mirror<PowerState> for v1::PowerStateV1 {
    fn mirror(&self) -> PowerState {
        match *self {
            Self::On => PowerState::On,
            Self::Off => PowerState::Off,
            Self::OnPending { entry, context } => PowerState::OnPending { entry, context },
            Self::Suspended => PowerState::Suspended,
            Self::WaitingForInterrupt => PowerState::WaitingForInterrupt,
        }
    }
}
