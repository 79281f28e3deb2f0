//! What the adapter must know of a machine, and how it restores.

use snapshot_format::state::GsiRoute;

use crate::x86::msr_policy::MsrPolicy;
use crate::x86::rehearsal::Rehearsal;
use crate::x86::tsc::TscPolicy;
use crate::x86::vm::KernelDevices;

/// What the adapter must know of the machine, and how it restores.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct KvmOptions {
    /// Which devices the kernel models.
    pub devices: KernelDevices,
    /// The routes of interrupts as the VMM set them last; `None` if it never did. The kernel does
    /// not give them back, so the snapshot has those that are here.
    pub routes: Option<Vec<GsiRoute>>,
    /// What to do with registers that the kernel refuses.
    pub msrs: MsrPolicy,
    /// What to do on a host that sets no counter of a guest.
    pub tsc: TscPolicy,
    /// When to try out on another vCPU what the host takes.
    pub rehearsal: Rehearsal,
}

impl KvmOptions {
    /// Options for a machine with these devices in the kernel: strict about registers, and
    /// with counters that never go back.
    #[must_use]
    pub fn new(devices: KernelDevices) -> Self {
        Self {
            devices,
            routes: None,
            msrs: MsrPolicy::default(),
            tsc: TscPolicy::default(),
            rehearsal: Rehearsal::default(),
        }
    }
}
