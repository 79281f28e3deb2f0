//! The hypervisor-neutral order of a snapshot and of a restore.

mod breakdown;
mod cancel;
mod error;
mod machine;
mod paused;
mod rendezvous;
mod restore;
mod snapshot;
mod step;
mod target;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use breakdown::{PauseBreakdown, RestoreBreakdown};
pub use cancel::Cancel;
pub use error::{RestoreError, SnapshotError, StepError};
pub use machine::{Devices, NoDevices, StateCapture, VcpuStop};
pub use paused::Paused;
pub use rendezvous::{NotGathered, Rendezvous};
pub use restore::{Overrides, RestoreTarget, restore};
pub use snapshot::{Captured, Machine, Selection, SnapshotRequest, snapshot};
pub use step::Step;
pub use target::{DeviceRestore, MemoryRestore, StateRestore};
