//! Guests that compute, snapshotted at random instants and restored in new processes: each must
//! end exactly as one does that nobody stopped.
//!
//! - `options`: the command line
//! - `task`: what one guest's process is told, and what it answers
//! - `moment`: the random instants
//! - `census`: what the vCPUs were in when they were stopped
//! - `process`: starts such a process, and waits for no more than its time
//! - `campaign`: which guests run, and the verdict

mod campaign;
mod census;
mod moment;
mod options;
mod process;
mod task;

pub use options::{Options, Work};
pub use task::{Report, Taken, Task, TaskError};
