//! A very small guest to prove snapshots with: a real KVM machine, and a stand-in for hosts
//! without KVM.
//!
//! Both run the pattern, which writes a pseudo-random pattern over memory and talks to a port. Its
//! end depends on every step and on every answer, so that a guest that was restored proves by its
//! end that nothing was lost:
//!
//! ```
//! use tinyvm::{Backend, GuestConfig, start};
//!
//! let config = GuestConfig { memory_bytes: 2 << 20, steps: 100, ..GuestConfig::default() };
//! let once = start(Backend::Process, &config)?.finish()?;
//! let again = start(Backend::Process, &config)?.finish()?;
//! assert_eq!(once, again);
//! # Ok::<(), tinyvm::GuestError>(())
//! ```
//!
//! # Programs that prove
//!
//! A KVM machine of four vCPUs runs one of these instead ([`Program`]). Each computes its checksum
//! from what a restore may lose, repeat or mix up: it ends otherwise then, or never. `cargo xtask
//! instants` takes snapshots of all of them at random instants, restores each in a new process,
//! and compares memory, registers and checksum with those of a guest that nobody stopped.
//!
//! | Program | Proves | A failure that it would show |
//! |---|---|---|
//! | [`Pattern`](Program::Pattern) | memory, general registers, one vector register, a port read pending at the snapshot | an answer lost or asked for twice |
//! | [`Token`](Program::Token) | interrupts between vCPUs, requested or in service; vCPUs asleep; the local APICs | vCPUs but the first set to off (squib); local APICs restored before system registers |
//! | [`Timers`](Program::Timers) | PIT by PICs and IOAPIC; the APIC timer one-shot, periodic and by TSC deadline | a deadline set before the APIC is in its mode (kata#13798) or before the TSC (firecracker#4099); one that passed before the save (firecracker#4618) |
//! | [`Vectors`](Program::Vectors) | x87, MXCSR and SSE registers, on the move; the upper halves of AVX, at the end | an XSAVE area cut short, or that of another vCPU |
//! | [`Io`](Program::Io) | string input and output, device memory read and written across two pages, port reads: all of several exits, pending at the snapshot | an exit that is not completed, or not to its last part |
//! | [`Parked`](Program::Parked) | a vCPU asleep and woken; one initialized and waiting for its start; one not initialized; one asleep for good that is started anew | an INIT or start that is lost; `MP_STATE` read late or set early |
//! | [`Breakpoints`](Program::Breakpoints) | debug registers, #DB on its way, the resume flag | debug registers left out |
//! | [`Clock`](Program::Clock) | time stamps that never go back, on one vCPU and from one to the next | TSCs that drift apart because each is set by value (cloud-hypervisor#8437), a clock set after vCPUs run (cloud-hypervisor#7930) |
//! | [`Nmi`](Program::Nmi) | a non-maskable interrupt that waits while one is handled | events left out, or set before the registers |
//!
//! What they do not promise is what KVM does not: a restore starts a one-shot timer anew that had
//! expired, and lets a deadline that had passed fire once more, because nothing says whether the
//! interrupt was delivered. Such a tick may come once more for each restore, and is counted
//! ([`Outcome::repeated`]); none may be lost. A host that keeps no TSC offset lets the counter
//! jump, and forward only is what `Clock` then proves.
//!
//! | Module | Holds |
//! |---|---|
//! | `guest`, `start` | what one does with a guest, and making or restoring one |
//! | `purpose` | whether a restored guest is the one that was stopped, or a clone |
//! | `program` | the machine code, commented, and the memory that it starts in |
//! | `model` | the same program as Rust |
//! | `replay` | the memory of that program, as an array to compare with |
//! | `proof` | which programs there are |
//! | `kvm`, `process` | the two backends; `kvm/proof` is the machine code of the proofs |
//! | `device` | the port |
//! | `config`, `digest` | configuration, digest of memory |
//! | `memory`, `served`, `planned` | memory, pages that are brought when they are touched, or as a plan says |

mod config;
mod device;
mod digest;
mod error;
mod guest;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod kvm;
mod memory;
mod model;
mod planned;
mod process;
mod program;
mod proof;
mod purpose;
mod replay;
mod served;
mod start;

pub use config::{GuestConfig, MAX_MEMORY_BYTES, MIN_MEMORY_BYTES};
pub use error::GuestError;
pub use guest::{Backend, Capture, Guest, GuestSnapshot, Outcome, SnapshotPages, Standing};
pub use hypervisor_bridge::PageReader;
pub use planned::{GuestPages, PlannedPages};
pub use proof::Program;
pub use purpose::{GENERATION_ADDRESS, Purpose};
pub use replay::{Position, Replay};
pub use served::ServedPages;
pub use start::{
    Image, ImagePages, Restored, host, kvm_available, reload, restore, saved_registers, start,
};

#[cfg(test)]
mod tests;
