//! Capture and restore of Hypervisor.framework machines on Apple silicon.

mod abort;
mod clock;
mod crew;
mod error;
#[cfg(any(test, feature = "testing"))]
pub mod fake;
mod fingerprint;
#[cfg(all(target_os = "macos", target_arch = "aarch64"))]
mod framework;
mod gic;
mod hv;
mod machine;
mod refusal;
mod registers;
mod restore;
mod save;
mod stop;
mod taken;
mod vcpu;
mod write_protect;

pub use abort::Access;
pub use crew::{CpuOn, Crew, Lines};
pub use error::HvfError;
#[cfg(all(target_os = "macos", target_arch = "aarch64"))]
pub use framework::Framework;
pub use gic::GicWay;
pub use hv::{
    Flag, GicConfig, HostInfo, HostTime, Hv, MsiConfig, Protection, RawExit, Register, SmeMode,
    SmeRegister, VcpuHandle, VmConfig,
};
pub use machine::{HvfMachine, HvfOptions, RestoreReport, SmePolicy};
pub use refusal::{HvCode, HvRefusal};
pub use stop::HvfVcpus;
pub use vcpu::{Exit, HvfVcpu};
pub use write_protect::{WriteFaults, WriteProtect, WriteProtectOptions};
