//! Capture and restore of Hypervisor.framework machines on Apple silicon.

mod abort;
mod error;
#[cfg(any(test, feature = "testing"))]
pub mod fake;
mod hv;
mod refusal;
mod write_protect;

pub use error::HvfError;
pub use hv::{
    Flag, GicConfig, HostInfo, HostTime, Hv, MsiConfig, Protection, RawExit, Register, SmeMode,
    SmeRegister, VcpuHandle, VmConfig,
};
pub use refusal::{HvCode, HvRefusal};
pub use write_protect::{WriteFaults, WriteProtect, WriteProtectOptions};
