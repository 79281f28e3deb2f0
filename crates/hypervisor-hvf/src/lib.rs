//! Capture and restore of Hypervisor.framework machines on Apple silicon.

#[cfg(any(test, feature = "testing"))]
pub mod fake;
mod hv;
mod refusal;

pub use hv::{
    Flag, GicConfig, HostInfo, HostTime, Hv, MsiConfig, Protection, RawExit, Register, SmeMode,
    SmeRegister, VcpuHandle, VmConfig,
};
pub use refusal::{HvCode, HvRefusal};
