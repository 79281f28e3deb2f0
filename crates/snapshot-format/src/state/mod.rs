//! Machine state as typed sections: vCPUs, what belongs to the whole machine, devices, and the
//! fingerprint that says where it can run again. Specified in `specs/04-machine-state.md`.
//!
//! Each payload has a runtime type, which may grow, and a frozen wire type for every payload
//! version in a `vN` module of its own.

mod bytes;
mod counts;
mod device;
mod fingerprint;
mod mirror;
mod vcpu_x86;
mod vm_x86;

pub use bytes::{ByteStateError, fit_bytes};
pub use device::DeviceState;
pub use fingerprint::{Capability, Fingerprint, Reason, ReasonKind, TSC_TOLERANCE_PPM};
pub use vcpu_x86::{
    CpuidEntry, DebugRegisters, DescriptorTable, EventInterrupt, EventNmi, EventSmi,
    ExceptionEvent, Msr, Registers, Segment, SpecialRegisters, VcpuEvents, VcpuX86, Xcr,
};
pub use vm_x86::{Clock, GsiRoute, IoApic, Pic, Pit, PitChannel, VmX86};

#[cfg(test)]
mod tests;
