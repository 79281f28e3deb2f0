//! What a machine must be able to do to be captured.

use snapshot_format::SectionPayload;
use snapshot_format::state::DeviceState;

use crate::error::StepError;
use crate::paused::Paused;

/// Stops and resumes vCPUs.
pub trait VcpuStop: Send {
    /// Stops every vCPU and, on the vCPU's own thread, completes the exit that it is in.
    ///
    /// Port and memory accesses take effect on registers only when the vCPU is entered again: a
    /// pending `in` would be lost or asked twice. See [`Rendezvous`](crate::Rendezvous).
    ///
    /// After an error or a panic [`resume`](Self::resume) is called: it undoes half a stop, too.
    fn stop(&mut self) -> Result<Paused, StepError>;

    /// Lets every vCPU run again. Called exactly once for each call of `stop`.
    fn resume(&mut self) -> Result<(), StepError>;
}

/// The devices of the VMM.
pub trait Devices: Send {
    /// Drains requests in flight and holds back new ones: interrupts are raised and memory is
    /// written now or not at all. Detaches eventfds and vhost backends, disarms host timers.
    ///
    /// After an error or a panic [`resume`](Self::resume) is called: it undoes half of it, too.
    fn quiesce(&mut self, paused: &Paused) -> Result<(), StepError>;

    /// The state of every device. It may write guest memory: used rings, for one.
    fn capture(&mut self, paused: &Paused) -> Result<Vec<DeviceState>, StepError>;

    /// Undoes `quiesce`. Called exactly once for each call of it.
    fn resume(&mut self) -> Result<(), StepError>;
}

/// Reads the state that the hypervisor keeps.
pub trait StateCapture: Send {
    /// How many vCPUs the machine has.
    fn vcpu_count(&self) -> usize;

    /// Tells the guest's watchdog that `vcpu` was stopped.
    fn notify_paused(&mut self, vcpu: usize, paused: &Paused) -> Result<(), StepError>;

    /// The state of one vCPU.
    fn capture_vcpu(&mut self, vcpu: usize, paused: &Paused) -> Result<SectionPayload, StepError>;

    /// What the machine has once. It is asked for after all vCPUs and before the devices.
    fn capture_vm(&mut self, paused: &Paused) -> Result<Vec<SectionPayload>, StepError>;
}

/// A machine without devices of its own, or whose devices have no state and never write memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoDevices;

impl Devices for NoDevices {
    fn quiesce(&mut self, _: &Paused) -> Result<(), StepError> {
        Ok(())
    }

    fn capture(&mut self, _: &Paused) -> Result<Vec<DeviceState>, StepError> {
        Ok(Vec::new())
    }

    fn resume(&mut self) -> Result<(), StepError> {
        Ok(())
    }
}
