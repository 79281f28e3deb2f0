//! Mapped files that are cut, or whose medium fails, under a running guest.
//!
//! A read of such a page has no bytes to give, so the kernel sends SIGBUS, which ends the process.
//! A [`BusGuard`] makes that an event: the failure is noted, the [`MemoryEvents`] of the guest
//! ring, and the thread that read is held where it is until the VMM has stopped the guest and
//! abandons its memory. The guest sees no byte that is not of its snapshot.
//!
//! A vCPU gets no signal: KVM_RUN fails with EFAULT or, where the kernel emulates the instruction,
//! ends with an MMIO exit at an address that is memory. [`BusWatch::look`] finds what is lost.
//!
//! [`MemoryEvents`]: crate::MemoryEvents

mod calls;
mod error;
mod guard;
mod signal;
mod watched;

pub use error::BusGuardError;
pub use guard::{BusGuard, BusWatch};
pub use watched::MappedRun;
