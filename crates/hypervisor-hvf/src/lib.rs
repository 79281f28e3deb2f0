//! Capture and restore of Hypervisor.framework machines on Apple silicon.
//!
//! The framework answers the thread that created a vCPU and no other, forgets lines when a run ends,
//! and knows nothing of vCPUs that are off: a [`Crew`] holds what it forgets, an [`HvfVcpu`] runs
//! on its thread, and [`HvfMachine`] has each thread read and write its own vCPU:
//!
//! ```
//! # #[cfg(feature = "testing")]
//! # fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use hypervisor_bridge::VcpuStop;
//! use hypervisor_hvf::fake::FakeHv;
//! use hypervisor_hvf::{Crew, Exit, Hv, HvfMachine, HvfOptions, HvfVcpu, HvfVcpus, VmConfig};
//!
//! // On a Mac: `Framework::new()`.
//! let hv = Arc::new(FakeHv::new(FakeHv::host_with_everything()));
//! hv.create_vm(VmConfig::default())?;
//! let crew = Crew::new(hv.clone(), 1);
//!
//! std::thread::scope(|scope| {
//!     let of_thread = crew.clone();
//!     scope.spawn(move || {
//!         let mut vcpu = HvfVcpu::create(of_thread, 0, 1 << 31)?;
//!         // Answer devices and PSCI here.
//!         while vcpu.run()? != Exit::Ended {}
//!         Ok::<(), hypervisor_hvf::HvfError>(())
//!     });
//!     let mut vcpus = HvfVcpus::new(crew.clone(), Duration::from_secs(10));
//!     let paused = vcpus.stop()?;
//!     let mut machine = HvfMachine::new(crew.clone(), HvfOptions::default())?;
//!     let saved = machine.save_vcpu(0, &paused)?;
//!     assert_eq!(saved.mpidr, 1 << 31);
//!     vcpus.resume()?;
//!     crew.end()?;
//!     Ok(())
//! })
//! # }
//! # #[cfg(not(feature = "testing"))]
//! # fn main() {}
//! ```
//!
//! | Module | Holds |
//! |---|---|
//! | `machine`, `taken` | the machine as the bridge sees it; state on its way into one |
//! | `save`, `restore`, `registers` | one vCPU, in the one right order; which registers there are |
//! | `gic`, `clock` | the interrupt controller, opaque and by register; the guest's counter |
//! | `crew`, `vcpu`, `stop`, `abort` | vCPU threads: power states, lines, exits, how they come to a stop |
//! | `write_protect` | the pages that guests wrote |
//! | `fingerprint` | what a machine needs and a host offers |
//! | `hv`, `refusal`, `error` | the seam to the framework, what it refuses, what this crate refuses |
//! | `framework` (macOS on arm64) | the framework itself: all unsafe code but one promise |
//! | `fake` (feature `testing`) | a fake of it that runs everywhere |
//!
//! # What has run where
//!
//! All of this crate but `framework` runs on Linux, against the fake: every order, every path and
//! every refusal is tested there. The bindings in `framework` are type-checked for
//! `aarch64-apple-darwin`. **Nothing has run on Apple hardware yet.** What is left to be seen there
//! is listed in `specs/14-hvf.md`.

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
