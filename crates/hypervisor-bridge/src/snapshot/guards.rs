//! Guards that resume exactly once, on every way out.

use snapshot_format::state::DeviceState;

use crate::error::StepError;
use crate::machine::{Devices, VcpuStop};
use crate::paused::Paused;

/// vCPUs, stopped or not yet. Dropped, also by a panic, it lets stopped ones go on.
pub(super) struct StoppedVcpus<'m> {
    vcpus: &'m mut dyn VcpuStop,
    asked: bool,
}

/// Devices, quiet or not yet. Dropped, also by a panic, it lets quiet ones go on.
pub(super) struct QuietDevices<'m> {
    devices: &'m mut dyn Devices,
    asked: bool,
}

impl<'m> StoppedVcpus<'m> {
    pub(super) fn guard(vcpus: &'m mut dyn VcpuStop) -> Self {
        Self {
            vcpus,
            asked: false,
        }
    }

    pub(super) fn stop(&mut self) -> Result<Paused, StepError> {
        // Noted first: half a stop is undone, too.
        self.asked = true;
        self.vcpus.stop()
    }

    pub(super) fn resume(&mut self) -> Result<(), StepError> {
        // Noted first: a panic in the call must not resume a second time.
        if std::mem::take(&mut self.asked) {
            self.vcpus.resume()
        } else {
            Ok(())
        }
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
    pub(super) fn guard(devices: &'m mut dyn Devices) -> Self {
        Self {
            devices,
            asked: false,
        }
    }

    pub(super) fn quiesce(&mut self, paused: &Paused) -> Result<(), StepError> {
        // Noted first: half of it is undone, too.
        self.asked = true;
        self.devices.quiesce(paused)
    }

    pub(super) fn capture(&mut self, paused: &Paused) -> Result<Vec<DeviceState>, StepError> {
        self.devices.capture(paused)
    }

    pub(super) fn resume(&mut self) -> Result<(), StepError> {
        // Noted first: a panic in the call must not resume a second time.
        if std::mem::take(&mut self.asked) {
            self.devices.resume()
        } else {
            Ok(())
        }
    }
}

impl Drop for QuietDevices<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.resume() {
            tracing::error!(%error, "devices were not resumed");
        }
    }
}
