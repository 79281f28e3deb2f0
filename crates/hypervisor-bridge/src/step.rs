//! The steps of a snapshot and of a restore, by name.

use std::fmt;

use crate::identity::CloneItem;

/// One step, to say where something went wrong.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Step {
    /// Open a stage in the sink.
    Begin,
    /// Have the sink prepare for memory.
    Plan,
    /// Stop every vCPU.
    Stop,
    /// Tell the guest's watchdog.
    Notify,
    /// Drain the devices.
    Quiesce,
    /// Read the vCPUs.
    CaptureVcpu,
    /// Read what the machine has once.
    CaptureVm,
    /// Read the devices.
    CaptureDevices,
    /// Fetch and clear the dirty pages.
    Harvest,
    /// Write memory.
    Memory,
    /// Write a round of memory while the machine runs.
    Round,
    /// Copy the last pages aside.
    Aside,
    /// Write what was set aside, and the page map.
    Finish,
    /// Let the devices go on.
    ResumeDevices,
    /// Let the vCPUs go on.
    ResumeVcpus,
    /// Hand the state over to the sink.
    Sections,
    /// Make everything durable.
    Seal,
    /// Make it visible.
    Publish,
    /// Drop the dirty bits that are in the snapshot now.
    Commit,
    /// Compare what the snapshot needs with what the host has.
    Check,
    /// Take the state sections, and see that they fit the target.
    Take,
    /// Put memory in place.
    RestoreMemory,
    /// Set what vCPUs need before them: the clock.
    Prepare,
    /// Write a vCPU.
    RestoreVcpu,
    /// Write what the machine has once.
    RestoreVm,
    /// Write the devices.
    RestoreDevices,
    /// Give a clone something of its own.
    Change(CloneItem),
    /// Tell a clone of it.
    Announce(CloneItem),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Change(item) => return write!(f, "change what a clone has of its own: {item}"),
            Self::Announce(item) => return write!(f, "tell a clone what it has: {item}"),
            Self::Begin => "open a stage",
            Self::Plan => "prepare the sink",
            Self::Stop => "stop the vCPUs",
            Self::Notify => "notify the guest of the pause",
            Self::Quiesce => "quiesce the devices",
            Self::CaptureVcpu => "read the vCPUs",
            Self::CaptureVm => "read the machine",
            Self::CaptureDevices => "read the devices",
            Self::Harvest => "harvest the dirty pages",
            Self::Memory => "write memory",
            Self::Round => "write a round of memory",
            Self::Aside => "set the last pages aside",
            Self::Finish => "finish memory",
            Self::ResumeDevices => "resume the devices",
            Self::ResumeVcpus => "resume the vCPUs",
            Self::Sections => "hand over the state",
            Self::Seal => "seal the snapshot",
            Self::Publish => "publish the snapshot",
            Self::Commit => "commit the dirty epoch",
            Self::Check => "check the host",
            Self::Take => "take the state",
            Self::RestoreMemory => "restore memory",
            Self::Prepare => "set the clock",
            Self::RestoreVcpu => "restore a vCPU",
            Self::RestoreVm => "restore the machine",
            Self::RestoreDevices => "restore the devices",
        })
    }
}
