//! What can go wrong between this crate and KVM.

use std::io;

use snapshot_format::limits;
use snapshot_format::state::{ByteStateError, Msr};

/// Capture or restore of KVM state failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KvmError {
    /// The kernel refused a request.
    #[error("{request}{}", OfVcpu(*.vcpu))]
    Ioctl {
        /// The name of the request.
        request: &'static str,
        /// The vCPU, where it went to one.
        vcpu: Option<usize>,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another version of the interface than the one and only.
    #[error("KVM interface version {found}, only version 12 is known")]
    ApiVersion {
        /// What the kernel answered.
        found: u64,
    },
    /// Model-specific registers that the kernel does not take.
    #[error(
        "vCPU {vcpu}: the kernel refuses {}; allow them in the MSR policy if the guest can do \
         without", Msrs(.refused)
    )]
    MsrsRefused {
        /// The vCPU.
        vcpu: usize,
        /// The registers with their saved values, in their saved order.
        refused: Vec<Msr>,
    },
    /// The host sets no counter of a guest, and its own is behind what the guest has seen.
    #[error(
        "vCPU {vcpu}: the guest has seen its TSC at {saved}, and this host can only show its own, \
         which is at {found}; allow it in the TSC policy if the guest does not read it"
    )]
    TscGoesBack {
        /// The vCPU.
        vcpu: usize,
        /// The saved value.
        saved: u64,
        /// What the vCPU reads.
        found: u64,
    },
    /// A structure of the kernel has something that this build does not know, and would lose.
    #[error("{what}{}: the kernel gives state that this build does not know", OfVcpu(*.vcpu))]
    UnknownState {
        /// The vCPU, where it is of one.
        vcpu: Option<usize>,
        /// Which state.
        what: &'static str,
    },
    /// State whose length differs on this host, and whose rest is not empty.
    #[error("vCPU {vcpu}: {what} does not fit this host")]
    DoesNotFit {
        /// The vCPU.
        vcpu: usize,
        /// Which state.
        what: &'static str,
        /// How it does not.
        #[source]
        source: ByteStateError,
    },
    /// A register that the kernel does not take with its saved value.
    #[error(
        "vCPU {vcpu}: the kernel refuses {register} = {value:#x}; allow it in the register policy \
         if the guest can do without"
    )]
    RegisterRefused {
        /// The vCPU.
        vcpu: usize,
        /// The register, by name or by number.
        register: String,
        /// The saved value.
        value: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A register that is too long for what this build knows of registers.
    #[error("vCPU {vcpu} has a register {id:#x}, which no part of a snapshot holds")]
    UnknownRegister {
        /// The vCPU.
        vcpu: usize,
        /// Its number in `KVM_GET_ONE_REG`.
        id: u64,
    },
    /// A vCPU whose affinity is not the one that its interrupt controller and the guest know.
    #[error(
        "vCPU {vcpu} has the affinity {target:#x}, it was saved with {saved:#x}: create the vCPUs \
         with the same numbers, in the same order"
    )]
    OtherAffinity {
        /// The vCPU.
        vcpu: usize,
        /// Its affinity in the snapshot.
        saved: u64,
        /// Its affinity in the target.
        target: u64,
    },
    /// State that no snapshot can hold.
    #[error("the machine has {what}, which a snapshot cannot hold")]
    NotCaptured {
        /// What it has.
        what: &'static str,
    },
    /// No machine could be made to ask the host with.
    #[error("make a machine to ask what the host can do")]
    Scratch {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// More than the format holds.
    #[error("vCPU {vcpu}: {found} {what}, at most {limit} can be saved")]
    Limit {
        /// The vCPU.
        vcpu: usize,
        /// What is counted.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// The cap of the format.
        limit: usize,
    },
    /// More vCPUs than a snapshot holds.
    #[error("a machine of {found} vCPUs, at most {limit} can be saved")]
    TooManyVcpus {
        /// How many the machine has.
        found: usize,
        /// The cap of the format.
        limit: usize,
    },
    /// A snapshot for another machine than the target.
    #[error("the snapshot needs {what}: {saved} saved, the target has {target}")]
    OtherMachine {
        /// What differs.
        what: &'static str,
        /// How many the snapshot has.
        saved: u64,
        /// How many the target has.
        target: u64,
    },
    /// State was to be restored before [`take`](crate::KvmMachine) gave any.
    #[error("there is no saved state of {what} to restore")]
    NothingTaken {
        /// Of what.
        what: &'static str,
    },
    /// A memory slot that does not match the layout.
    #[error(
        "memory slot {slot} at {guest_address:#x} of {len_bytes} bytes lies outside the memory \
         layout, or is not aligned to pages"
    )]
    Slot {
        /// The slot.
        slot: u32,
        /// Its guest physical address.
        guest_address: u64,
        /// Its length in bytes.
        len_bytes: u64,
    },
    /// Memory that is in no slot, so that writes to it would go unseen.
    #[error("no memory slot backs the memory at {guest_address:#x}; name all slots of the layout")]
    NoSlot {
        /// The first guest physical address that is in none.
        guest_address: u64,
    },
    /// Two slots with one number, or with the same memory.
    #[error("memory slots {slot} and {other} have the same number or the same memory")]
    SlotTwice {
        /// One.
        slot: u32,
        /// The other.
        other: u32,
    },
    /// Memory that this process cannot read, or not as the guest does.
    #[error("{what}: its memory cannot be captured from outside the guest")]
    PrivateMemory {
        /// What was found.
        what: &'static str,
    },
    /// Something that the kernel of this host does not have.
    #[error("the KVM of this host lacks {what}")]
    Unsupported {
        /// What is missing, and what to use instead.
        what: &'static str,
    },
    /// Dirty rings of a length that the kernel does not take.
    #[error("dirty rings of {entries} entries: a power of two from {least} to {most} is needed")]
    RingSize {
        /// What was asked for.
        entries: u32,
        /// The least number of entries.
        least: u64,
        /// The largest number.
        most: u64,
    },
    /// The dirty ring of a vCPU could not be mapped.
    #[error("map the dirty ring of vCPU {vcpu}; rings are enabled before vCPUs are made")]
    MapRing {
        /// The vCPU.
        vcpu: usize,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A vCPU whose pending exit never ends.
    #[error("vCPU {vcpu}: {rounds} exits in a row while its pending one was completed")]
    ExitNeverEnds {
        /// The vCPU.
        vcpu: usize,
        /// How often it was entered.
        rounds: u32,
    },
}

struct Msrs<'a>(&'a [Msr]);

impl std::fmt::Display for Msrs<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (number, Msr { index, value }) in self.0.iter().enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            write!(f, "{comma}MSR {index:#x} = {value:#x}")?;
        }
        Ok(())
    }
}

/// That a snapshot holds as many vCPUs as the machine has.
pub(crate) fn check_vcpu_count(found: usize) -> Result<(), KvmError> {
    let limit = limits::MAX_VCPUS;
    if found > limit {
        return Err(KvmError::TooManyVcpus { found, limit });
    }
    Ok(())
}

/// That nothing of a vCPU is more than the format holds: what is counted, how many there are, and
/// the cap.
pub(crate) fn within_limits(
    vcpu: usize,
    counts: &[(&'static str, usize, usize)],
) -> Result<(), KvmError> {
    match counts.iter().find(|(_, found, limit)| found > limit) {
        None => Ok(()),
        Some(&(what, found, limit)) => Err(KvmError::Limit {
            vcpu,
            what,
            found,
            limit,
        }),
    }
}

struct OfVcpu(Option<usize>);

impl std::fmt::Display for OfVcpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(vcpu) => write!(f, " of vCPU {vcpu}"),
            None => Ok(()),
        }
    }
}
