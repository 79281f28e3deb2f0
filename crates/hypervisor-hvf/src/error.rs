//! What can go wrong between this crate and Hypervisor.framework.

use hypervisor_bridge::{NoAnswer, NotGathered};

use crate::refusal::HvRefusal;

/// Capture or restore of a machine of Hypervisor.framework failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HvfError {
    /// The framework refused a call.
    #[error(transparent)]
    Refused(#[from] HvRefusal),
    /// The framework refused something of one vCPU.
    #[error("vCPU {vcpu}: {what}")]
    Vcpu {
        /// Which.
        vcpu: usize,
        /// What was read or written.
        what: String,
        /// Why.
        #[source]
        source: HvRefusal,
    },
    /// A vCPU's thread did not do what it was given.
    #[error(transparent)]
    Thread(#[from] NoAnswer),
    /// vCPUs did not come to a stop.
    #[error(transparent)]
    NotGathered(#[from] NotGathered),
    /// The vCPU is to run, and the VMM has not answered its last exit.
    #[error("vCPU {vcpu} waits for the answer to its access at {address:#x}; complete it first")]
    ExitPending {
        /// Which.
        vcpu: usize,
        /// The guest physical address.
        address: u64,
    },
    /// An answer to a vCPU that has not asked for one.
    #[error("vCPU {vcpu} has no access to complete")]
    NothingPending {
        /// Which.
        vcpu: usize,
    },
    /// An access to a device by an instruction that says nothing of itself.
    #[error(
        "vCPU {vcpu} accesses a device at {address:#x} by an instruction without a syndrome \
         ({syndrome:#x}); it would have to be decoded"
    )]
    NoSyndrome {
        /// Which.
        vcpu: usize,
        /// The guest physical address.
        address: u64,
        /// `ESR_EL2`.
        syndrome: u64,
    },
    /// An exit that the framework says should not happen.
    #[error("vCPU {vcpu} left the guest for an unknown reason {reason}")]
    UnknownExit {
        /// Which.
        vcpu: usize,
        /// `hv_exit_reason_t`.
        reason: u32,
    },
    /// A number that no vCPU of the machine has, or one that is taken.
    #[error("vCPU {vcpu} is not one of {count} that wait for their thread")]
    NoSuchVcpu {
        /// The number.
        vcpu: usize,
        /// How many the machine has.
        count: usize,
    },
    /// Memory that cannot be protected in pages of the host.
    #[error(
        "memory at {start:#x} of {len_bytes:#x} bytes is not made of pages of {granule_bytes} bytes"
    )]
    Region {
        /// Guest physical address.
        start: u64,
        /// Its length.
        len_bytes: u64,
        /// What both must be multiples of.
        granule_bytes: u64,
    },
    /// The framework refuses the opaque state of the interrupt controller, and there is no copy by
    /// register.
    #[error(
        "the GIC's state, made on build {saved_build:?}, is refused on {host_build:?}, and the \
         snapshot has no copy of it by register; restore it on a host of its build"
    )]
    GicRefused {
        /// Which build of the system made it.
        saved_build: String,
        /// Which build refuses it.
        host_build: String,
        /// How it was refused.
        #[source]
        source: HvRefusal,
    },
    /// Matrix state in use by a guest that was said to be shown none.
    #[error("vCPU {vcpu} uses the matrix extension, which the machine was said to hide")]
    HiddenSme {
        /// Which.
        vcpu: usize,
    },
    /// More than the format holds.
    #[error("{found} {what}, at most {limit} can be saved")]
    Limit {
        /// What is counted.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many there may be.
        limit: usize,
    },
    /// Restoring before anything was taken, or saving the machine before its vCPUs.
    #[error("there is no state of {what}")]
    NothingTaken {
        /// Of what.
        what: &'static str,
    },
}
