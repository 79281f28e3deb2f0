//! The hypervisor-neutral order of a snapshot and of a restore.
//!
//! A VMM implements [`VcpuStop`] and [`Devices`], a hypervisor adapter [`StateCapture`] and
//! [`StateRestore`]; [`snapshot()`] and [`Restore`] call them in the one order that loses nothing.
//! Whatever goes wrong, a machine that was stopped is resumed exactly once. vCPU threads stop at a
//! [`Rendezvous`]:
//!
//! ```
//! use std::sync::atomic::{AtomicBool, Ordering};
//! use std::time::Duration;
//!
//! use hypervisor_bridge::Rendezvous;
//!
//! let (meeting, ended) = (Rendezvous::new(1), AtomicBool::new(false));
//! std::thread::scope(|scope| {
//!     scope.spawn(|| {
//!         while !ended.load(Ordering::SeqCst) {
//!             // Run the vCPU here; after each exit, look whether it is asked for.
//!             if meeting.is_requested() {
//!                 meeting.wait(0);
//!             }
//!         }
//!     });
//!     // The kick makes the vCPU leave the guest, by a signal for one.
//!     meeting.gather(Duration::from_secs(1), &mut |_vcpu| {})?;
//!     // It stands still: capture it here.
//!     meeting.release();
//!     ended.store(true, Ordering::SeqCst);
//!     Ok::<(), hypervisor_bridge::NotGathered>(())
//! })?;
//! # Ok::<(), hypervisor_bridge::NotGathered>(())
//! ```
//!
//! | Module | Holds |
//! |---|---|
//! | `machine`, `target`, `copy`, `planned` | the traits of a machine to capture, and of one to restore into |
//! | `snapshot`, `live`, `restore` | the sequences: of a snapshot in one pause, of one while the machine runs, of a restore |
//! | `clock`, `identity`, `generation` | what whoever restores must say: about time, and about clones |
//! | `reload` | the proof that a restore loses nothing: restore, capture again, compare |
//! | `paused`, `rendezvous` | the proof that a machine stands still, and how its threads get there |
//! | `breakdown`, `metrics` | where the time goes, and all else that a snapshot or a restore tells of itself |
//! | `step`, `error` | what can go wrong, and being asked to stop |
//! | `testing` (feature) | recording fakes, a sink in memory, the conformance suite of adapters |

mod breakdown;
mod clock;
mod copy;
mod error;
mod generation;
mod identity;
mod live;
mod machine;
mod metrics;
mod paused;
#[cfg(target_os = "linux")]
mod planned;
mod reload;
mod rendezvous;
mod restore;
mod snapshot;
mod step;
mod target;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use breakdown::{PauseBreakdown, RestoreBreakdown};
pub use clock::ClockPolicy;
pub use copy::{CopiedMemory, PageReader};
pub use error::{RestoreError, SnapshotError, StepError};
pub use generation::{
    AcpiNames, BadGenerationAddress, GENERATION_ID_BYTES, GenerationDevice, GenerationEvent,
    GenerationId,
};
pub use identity::{
    Answer, CloneEntry, CloneHook, CloneIdentity, CloneItem, NewGeneration, PatchMemory, RaiseEvent,
};
pub use live::{
    Behind, LiveOptions, LiveReport, LiveRequest, Overflow, RoundReport, Slowed, Throttle,
    WhenBehind, live_snapshot,
};
pub use machine::{Devices, NoDevices, StateCapture, VcpuStop};
pub use metrics::{MemoryMetrics, Metrics, SourceMetrics, TrackingMetrics};
pub use paused::Paused;
#[cfg(target_os = "linux")]
pub use planned::PlannedMemory;
pub use reload::{
    Difference, MOVING_ARM64, Moving, ReloadError, ReloadReport, ReloadTarget, compare_memory,
    compare_sections, reload,
};
pub use rendezvous::{NoAnswer, NotGathered, Rendezvous};
pub use restore::{Overrides, Restore, RestoreOutcome, RestoreTarget};
pub use snapshot::{Captured, Machine, Selection, SnapshotRequest, snapshot};
pub use snapshot_memory::Cancel;
pub use step::Step;
pub use target::{DeviceRestore, MemoryRestore, StateRestore};
