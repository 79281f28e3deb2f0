//! Where the time of a snapshot goes.

use std::time::Instant;

use serde::Serialize;

/// How long each part took, in nanoseconds.
///
/// The machine stands still from the start of `stop_ns` to the end of `resume_ns`; what is below
/// happens while it runs again, and `rounds_ns` before it is stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct PauseBreakdown {
    /// Writing memory in rounds; 0 but in a live snapshot.
    pub rounds_ns: u64,
    /// Stopping the vCPUs, and telling the guest.
    pub stop_ns: u64,
    /// Of `stop_ns`: telling the guest.
    pub notify_ns: u64,
    /// Draining the devices.
    pub quiesce_ns: u64,
    /// Reading and encoding vCPUs, machine and devices.
    pub state_ns: u64,
    /// Of `state_ns`: the vCPUs.
    pub vcpus_ns: u64,
    /// Of `state_ns`: what the machine has once.
    pub vm_ns: u64,
    /// Of `state_ns`: the devices.
    pub devices_ns: u64,
    /// Fetching and clearing the dirty pages.
    pub harvest_ns: u64,
    /// Writing memory; in a live snapshot, copying the last pages aside.
    pub write_ns: u64,
    /// Letting devices and vCPUs go on.
    pub resume_ns: u64,
    /// Writing what was set aside, and the page map; 0 but in a live snapshot.
    pub finish_ns: u64,
    /// Handing over the state and making everything durable.
    pub seal_ns: u64,
    /// Making it visible, durably.
    pub publish_ns: u64,
}

impl PauseBreakdown {
    /// How long the machine stood still.
    #[must_use]
    pub fn pause_ns(&self) -> u64 {
        [
            self.stop_ns,
            self.quiesce_ns,
            self.state_ns,
            self.harvest_ns,
            self.write_ns,
            self.resume_ns,
        ]
        .iter()
        .fold(0, |sum, part| sum.saturating_add(*part))
    }

    /// The same without reading the state of the machine: what memory and stopping cost.
    #[must_use]
    pub fn pause_without_state_ns(&self) -> u64 {
        self.pause_ns().saturating_sub(self.state_ns)
    }
}

/// How long each part of a restore took, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct RestoreBreakdown {
    /// Comparing with the host, taking and decoding the state.
    pub check_ns: u64,
    /// Putting memory in place.
    pub memory_ns: u64,
    /// Writing clock, vCPUs, machine and devices.
    pub state_ns: u64,
    /// Giving a clone its identity, and telling it; next to nothing for a machine that is resumed.
    pub clone_ns: u64,
}

impl RestoreBreakdown {
    /// The whole, until the vCPUs may run.
    #[must_use]
    pub fn total_ns(&self) -> u64 {
        self.check_ns
            .saturating_add(self.memory_ns)
            .saturating_add(self.state_ns)
            .saturating_add(self.clone_ns)
    }
}

/// Measures parts that follow each other without a gap.
#[derive(Debug)]
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// Nanoseconds since the start or the last lap.
    pub(crate) fn lap(&mut self) -> u64 {
        let now = Instant::now();
        let passed = now.duration_since(self.0).as_nanos();
        self.0 = now;
        u64::try_from(passed).unwrap_or(u64::MAX)
    }
}
