//! The hypervisor-neutral order of a snapshot and of a restore.

mod breakdown;
mod cancel;
mod error;
mod machine;
mod paused;
mod rendezvous;
mod step;

pub use breakdown::PauseBreakdown;
pub use cancel::Cancel;
pub use error::{RestoreError, SnapshotError, StepError};
pub use machine::{Devices, NoDevices, StateCapture, VcpuStop};
pub use paused::Paused;
pub use rendezvous::{NotGathered, Rendezvous};
pub use step::Step;
