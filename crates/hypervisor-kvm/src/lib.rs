//! Capture and restore of KVM machines.

mod calls;
mod dirty_log;
mod error;
mod exit;
mod ioctl;
mod lists;
mod request;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use calls::MemorySlot;
pub use dirty_log::{DirtyLogMode, KvmDirtyLog};
pub use error::KvmError;
pub use exit::{EnterVcpu, Entered, complete_pending_exit};
pub use ioctl::Handles;
#[cfg(target_arch = "x86_64")]
pub use x86::{ClockPolicy, KernelDevices, KvmMachine, KvmOptions, MsrPolicy};
