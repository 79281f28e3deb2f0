//! What a machine must be able to do to be restored into.

use snapshot_format::SectionOffers;
use snapshot_format::state::{DeviceState, Fingerprint, Reason};
use snapshot_memory::MemoryReport;

use crate::clock::ClockPolicy;
use crate::error::StepError;

/// Writes the state that the hypervisor keeps. The machine has its vCPUs, none of which has run.
pub trait StateRestore: Send {
    /// What the host offers.
    fn host(&mut self) -> Result<Fingerprint, StepError>;

    /// Takes the sections of the hypervisor, and says everything in them that does not fit the
    /// host or the machine, which is not touched yet. Nothing is restored unless the caller
    /// takes every answer upon itself.
    ///
    /// Sections that cannot be read at all are an error; one that is missing is a reason. So is a
    /// clock that cannot do what is asked of it: it is never left to do something else.
    fn take(
        &mut self,
        offers: &mut SectionOffers,
        clock: ClockPolicy,
    ) -> Result<Vec<Reason>, StepError>;

    /// Sets what has to be in place before the vCPUs: the clock, which their counters follow.
    fn prepare(&mut self) -> Result<(), StepError>;

    /// How many vCPUs the machine has.
    fn vcpu_count(&self) -> usize;

    /// Writes one vCPU.
    fn restore_vcpu(&mut self, vcpu: usize) -> Result<(), StepError>;

    /// Writes what the machine has once, after all vCPUs.
    fn restore_vm(&mut self) -> Result<(), StepError>;
}

/// Puts guest memory in place: copies it, maps it, or sets up what serves it on demand.
pub trait MemoryRestore: Send {
    /// Does so. When it returns, the hypervisor can read all guest memory.
    ///
    /// It says when the pages are checked, and by what: no restore leaves that open.
    fn restore(&mut self) -> Result<MemoryReport, StepError>;
}

/// Writes the state of the VMM's devices.
pub trait DeviceRestore: Send {
    /// Writes it, in the order in which it was captured. No device may raise an interrupt before.
    fn restore(&mut self, devices: Vec<DeviceState>) -> Result<(), StepError>;
}
