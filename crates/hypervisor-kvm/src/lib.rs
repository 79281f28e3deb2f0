//! Capture and restore of KVM machines.
//!
//! Descriptors come in borrowed, so that no VMM is tied to a version of kvm-ioctls:
//!
//! ```
//! # #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
//! # fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! use hypervisor_bridge::StateRestore;
//! use hypervisor_kvm::{Handles, KernelDevices, KvmMachine, KvmOptions};
//!
//! let Ok(kvm) = kvm_ioctls::Kvm::new() else {
//!     return Ok(()); // This host has no KVM.
//! };
//! let vm = kvm.create_vm()?;
//! vm.create_irq_chip()?;
//! vm.create_pit2(kvm_bindings::kvm_pit_config::default())?;
//! let vcpus = [vm.create_vcpu(0)?];
//!
//! // SAFETY: the descriptors are what they are passed as, and no vCPU runs.
//! let handles = unsafe { Handles::from_raw(&kvm, &vm, &vcpus) };
//! let mut machine = KvmMachine::new(handles, KvmOptions::new(KernelDevices::ALL))?;
//! println!("this host is a {}", machine.host()?.vendor);
//! # Ok(())
//! # }
//! # #[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
//! # fn main() {}
//! ```
//!
//! [`guide`] wires an existing VMM, in less than a hundred lines.
//!
//! | Module | Holds |
//! |---|---|
//! | `x86` | vCPU and machine state of x86-64: order, registers, clock, fingerprint |
//! | `arm64` | the same of aarch64, with its interrupt controllers |
//! | `host` | what is the same for every machine of a host |
//! | `dirty` | the pages that vCPUs wrote: dirty log and dirty rings, slots that change |
//! | `exit` | completing the exit that a vCPU is in |
//! | `request`, `ioctl` | the numbers of the requests, and the system calls: all unsafe code is there |
//! | `calls`, `lists` | the seam that tests record at, structures of variable length |
//!
//! [`syscalls`] lists the system calls, for those who filter them.

#![cfg_attr(
    not(target_arch = "x86_64"),
    expect(dead_code, reason = "serves the adapters of other architectures")
)]

#[cfg(target_arch = "aarch64")]
mod arm64;
// Tests of any host drive it against a fake kernel.
#[cfg(all(test, not(target_arch = "aarch64")))]
pub mod arm64;
mod calls;
mod dirty;
mod error;
mod exit;
pub mod guide;
mod host;
mod ioctl;
mod lists;
mod request;
#[cfg(target_os = "linux")]
pub mod syscalls;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "aarch64")]
pub use arm64::{KernelDevices, KvmMachine, KvmOptions, RegisterPolicy};
pub use calls::MemorySlot;
pub use dirty::{DirtyLogMode, DirtyRings, KvmDirtyLog, KvmDirtyRing, KvmSlots, VcpuRings};
pub use error::KvmError;
pub use exit::{EnterVcpu, Entered, complete_pending_exit};
pub use ioctl::Handles;
#[cfg(target_arch = "x86_64")]
pub use x86::{
    DroppedMsr, Irqchip, KernelDevices, KvmMachine, KvmOptions, MOVING_FIELDS, MsrPolicy,
    Rehearsal, RestoreReport, TscOutcome, TscPolicy,
};
