//! Machine state as typed sections: vCPUs, what belongs to the whole machine, devices, and the
//! fingerprint that says where it can run again. Specified in `specs/04-machine-state.md`, and for
//! aarch64 in `specs/11-arm64-state.md`.
//!
//! Each payload has a runtime type, which may grow, and a frozen wire type for every payload
//! version in a `vN` module of its own.

mod bytes;
mod counts;
mod device;
mod fingerprint;
mod gic;
mod hypervisor;
mod mirror;
mod system_register;
mod vcpu_arm64;
mod vcpu_x86;
mod vm_arm64;
mod vm_x86;

pub use bytes::{ByteStateError, fit_bytes};
pub use device::DeviceState;
pub use fingerprint::{
    Capability, Fingerprint, FingerprintArm64, Reason, ReasonKind, TSC_TOLERANCE_PPM, UnknownReason,
};
pub use gic::{
    BankedRegister, GicBlob, GicRegister, GicV2, GicV3, GicV3Config, Its, MsiFrame, Redistributor,
    RedistributorRegion,
};
pub use hypervisor::{Hypervisor, HypervisorRegister};
pub use system_register::{SystemRegister, SystemRegisterId, register_value};
pub use vcpu_arm64::{
    CoreArm64, DebugTraps, KvmInit, PendingArm64, PowerState, SError, SimdArm64, SmeArm64,
    SveArm64, Timer, TimersArm64, VcpuArm64,
};
pub use vcpu_x86::{
    CpuidEntry, DebugRegisters, DescriptorTable, EventInterrupt, EventNmi, EventSmi,
    ExceptionEvent, Msr, Registers, Segment, SpecialRegisters, VcpuEvents, VcpuX86, Xcr,
};
pub use vm_arm64::{CounterOffset, GicVersion, VmArm64};
pub use vm_x86::{Clock, GsiRoute, IoApic, Pic, Pit, PitChannel, VmX86};

#[cfg(test)]
mod tests;
