//! A machine that does nothing but record.

// UNSAFETY: the promise of a machine that has no vCPU which could run.
#![expect(unsafe_code, reason = "makes the token of a machine that never runs")]

use snapshot_format::state::{DeviceState, Fingerprint, Reason, VcpuX86, VmX86};
use snapshot_format::{SectionOffers, SectionPayload, StatePayload};
use snapshot_memory::{CheckedBy, MemoryReport, RestoreMethod, Verification};

use super::script::Script;
use crate::clock::ClockPolicy;
use crate::error::StepError;
use crate::machine::{Devices, StateCapture, VcpuStop};
use crate::paused::Paused;
use crate::target::{DeviceRestore, MemoryRestore, StateRestore};

/// The token of a machine that never runs.
#[must_use]
pub fn fake_paused() -> Paused {
    // SAFETY: there is no vCPU.
    unsafe { Paused::promise() }
}

/// vCPUs that record `stop` and `resume vcpus`.
#[derive(Clone, Debug, Default)]
pub struct FakeVcpus(pub Script);

impl VcpuStop for FakeVcpus {
    fn stop(&mut self) -> Result<Paused, StepError> {
        self.0.reach("stop")?;
        Ok(fake_paused())
    }

    fn resume(&mut self) -> Result<(), StepError> {
        self.0.reach("resume vcpus")
    }
}

/// Devices that record `quiesce`, `capture devices`, `resume devices` and `restore devices N`,
/// and memory that records `restore memory`.
#[derive(Clone, Debug, Default)]
pub struct FakeDevices(pub Script);

impl Devices for FakeDevices {
    fn quiesce(&mut self, _: &Paused) -> Result<(), StepError> {
        self.0.reach("quiesce")
    }

    fn capture(&mut self, _: &Paused) -> Result<Vec<DeviceState>, StepError> {
        self.0.reach("capture devices")?;
        Ok(vec![DeviceState::default()])
    }

    fn resume(&mut self) -> Result<(), StepError> {
        self.0.reach("resume devices")
    }
}

impl DeviceRestore for FakeDevices {
    fn restore(&mut self, devices: Vec<DeviceState>) -> Result<(), StepError> {
        self.0.reach(&format!("restore devices {}", devices.len()))
    }
}

impl MemoryRestore for FakeDevices {
    fn restore(&mut self) -> Result<MemoryReport, StepError> {
        self.0.reach("restore memory")?;
        let (way, policy) = (RestoreMethod::Eager, Verification::Eager);
        Ok(MemoryReport::new(way, policy, CheckedBy::Digests))
    }
}

/// State of two vCPUs that records every call.
#[derive(Clone, Debug, Default)]
pub struct FakeState {
    /// The record.
    pub script: Script,
    /// What the machine needs, and what the host offers.
    pub fingerprint: Fingerprint,
}

impl StateCapture for FakeState {
    fn vcpu_count(&self) -> usize {
        2
    }

    fn notify_paused(&mut self, vcpu: usize, _: &Paused) -> Result<(), StepError> {
        self.script.reach(&format!("notify {vcpu}"))
    }

    fn capture_vcpu(&mut self, vcpu: usize, _: &Paused) -> Result<SectionPayload, StepError> {
        self.script.reach(&format!("capture vcpu {vcpu}"))?;
        let instance = u32::try_from(vcpu)?;
        Ok(SectionPayload::of(instance, &VcpuX86::default()))
    }

    fn capture_vm(&mut self, _: &Paused) -> Result<Vec<SectionPayload>, StepError> {
        self.script.reach("capture vm")?;
        Ok(vec![
            SectionPayload::of(0, &VmX86::default()),
            SectionPayload::of(0, &self.fingerprint),
        ])
    }
}

impl StateRestore for FakeState {
    fn host(&mut self) -> Result<Fingerprint, StepError> {
        self.script.reach("host")?;
        Ok(self.fingerprint.clone())
    }

    fn take(
        &mut self,
        offers: &mut SectionOffers,
        _: ClockPolicy,
    ) -> Result<Vec<Reason>, StepError> {
        self.script.reach("take")?;
        let saved = offers.take_all::<VcpuX86>()?.len() as u64;
        let vm = offers.take_optional::<VmX86>(0)?;
        let count = (saved != 2).then_some(Reason::Shape {
            what: "vCPUs",
            saved,
            target: 2,
        });
        let missing = vm.is_none().then_some(Reason::MissingSection {
            section: VmX86::KIND,
            instance: 0,
        });
        Ok(count.into_iter().chain(missing).collect())
    }

    fn prepare(&mut self) -> Result<(), StepError> {
        self.script.reach("prepare")
    }

    fn vcpu_count(&self) -> usize {
        2
    }

    fn restore_vcpu(&mut self, vcpu: usize) -> Result<(), StepError> {
        self.script.reach(&format!("restore vcpu {vcpu}"))
    }

    fn restore_vm(&mut self) -> Result<(), StepError> {
        self.script.reach("restore vm")
    }
}
