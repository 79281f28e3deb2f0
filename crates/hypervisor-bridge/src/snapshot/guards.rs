//! Guards that resume exactly once, on every way out.

use crate::error::StepError;
use crate::machine::{Devices, VcpuStop};
use crate::paused::Paused;

/// vCPUs that were asked to stop. Dropped, also by a panic, it lets them go on.
pub(super) struct StoppedVcpus<'m> {
    vcpus: Option<&'m mut dyn VcpuStop>,
}

/// Devices that were asked to keep still. Dropped, also by a panic, it lets them go on.
pub(super) struct QuietDevices<'m> {
    devices: Option<&'m mut dyn Devices>,
}

impl<'m> StoppedVcpus<'m> {
    /// Takes charge before the stop: half a stop is undone, too.
    pub(super) fn guard(vcpus: &'m mut dyn VcpuStop) -> Self {
        Self { vcpus: Some(vcpus) }
    }

    pub(super) fn stop(&mut self) -> Result<Paused, StepError> {
        match &mut self.vcpus {
            Some(vcpus) => vcpus.stop(),
            None => Err("the vCPUs were resumed already".into()),
        }
    }

    pub(super) fn resume(&mut self) -> Result<(), StepError> {
        // Taken first: a panic in the call must not resume a second time.
        self.vcpus.take().map_or(Ok(()), VcpuStop::resume)
    }
}

impl Drop for StoppedVcpus<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.resume() {
            tracing::error!(%error, "vCPUs were not resumed");
        }
    }
}

impl<'m> QuietDevices<'m> {
    /// Takes charge before the devices are asked: half of it is undone, too.
    pub(super) fn guard(devices: &'m mut dyn Devices) -> Self {
        Self {
            devices: Some(devices),
        }
    }

    /// The devices, for as long as they are quiet.
    pub(super) fn get(&mut self) -> Result<&mut (dyn Devices + 'm), StepError> {
        match &mut self.devices {
            Some(devices) => Ok(&mut **devices),
            None => Err("the devices were resumed already".into()),
        }
    }

    pub(super) fn resume(&mut self) -> Result<(), StepError> {
        self.devices.take().map_or(Ok(()), Devices::resume)
    }
}

impl Drop for QuietDevices<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.resume() {
            tracing::error!(%error, "devices were not resumed");
        }
    }
}
