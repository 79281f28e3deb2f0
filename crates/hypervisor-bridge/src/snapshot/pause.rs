//! The pause: stopped, frozen, and let go on exactly once.

use snapshot_format::SectionPayload;
use snapshot_memory::{Cancel, GuestMemorySource};

use super::Machine;
use super::failed::{at, go_on};
use super::guards::{QuietDevices, StoppedVcpus};
use crate::breakdown::{PauseBreakdown, Stopwatch};
use crate::error::SnapshotError;
use crate::machine::StateCapture;
use crate::paused::Paused;
use crate::step::Step;

/// What the pause yields.
pub(crate) struct Frozen<M> {
    pub(crate) sections: Vec<SectionPayload>,
    /// What was done with memory.
    pub(crate) memory: M,
}

/// The part of the pause that memory is done in: all else is captured.
pub(crate) struct Lapse<'a> {
    pub(crate) memory: &'a dyn GuestMemorySource,
    pub(crate) time: &'a mut PauseBreakdown,
    pub(crate) watch: &'a mut Stopwatch,
}

/// Stops the machine, which `stopped` is told of, captures its state, has `freeze_memory` do what
/// it does, and lets the machine go on.
pub(crate) fn pause<M>(
    machine: &mut Machine<'_>,
    cancel: &Cancel,
    time: &mut PauseBreakdown,
    stopped: impl FnOnce(),
    freeze_memory: impl FnOnce(&mut Lapse<'_>) -> Result<M, SnapshotError>,
) -> Result<Frozen<M>, SnapshotError> {
    let Machine {
        vcpus,
        devices,
        state,
        memory,
    } = machine;
    go_on(cancel, Step::Stop)?;
    let mut watch = Stopwatch::start();
    // The guards drop in reverse: devices go on before the vCPUs that may ask them for something.
    let mut vcpus = StoppedVcpus::guard(&mut **vcpus);
    let mut devices = QuietDevices::guard(&mut **devices);
    let frozen = vcpus.stop().map_err(at(Step::Stop)).and_then(|paused| {
        stopped();
        let mut freezing = Freezing {
            state: &mut **state,
            cancel,
            paused: &paused,
            time,
            watch: &mut watch,
        };
        let sections = freezing.freeze(&mut devices)?;
        // Memory last: reading clock, steal time, devices may all have written to it.
        let memory = freeze_memory(&mut Lapse {
            memory: *memory,
            time,
            watch: &mut watch,
        })?;
        Ok(Frozen { sections, memory })
    });
    watch.lap();
    let devices_run = devices.resume();
    let vcpus_run = vcpus.resume();
    time.resume_ns = watch.lap();
    let (step, source) = match (devices_run, vcpus_run) {
        (Ok(()), Ok(())) => return frozen,
        (Err(source), _) => (Step::ResumeDevices, source),
        (Ok(()), Err(source)) => (Step::ResumeVcpus, source),
    };
    Err(SnapshotError::NotResumed {
        step,
        after: frozen.err().map(Box::new),
        source,
    })
}

/// A machine whose vCPUs stand still.
struct Freezing<'a> {
    state: &'a mut dyn StateCapture,
    cancel: &'a Cancel,
    paused: &'a Paused,
    time: &'a mut PauseBreakdown,
    watch: &'a mut Stopwatch,
}

impl Freezing<'_> {
    fn freeze(
        &mut self,
        devices: &mut QuietDevices<'_>,
    ) -> Result<Vec<SectionPayload>, SnapshotError> {
        let vcpu_count = self.state.vcpu_count();
        self.time.stop_ns = self.watch.lap();
        go_on(self.cancel, Step::Notify)?;
        for vcpu in 0..vcpu_count {
            // At the pause, so that the guest's watchdog takes the gap for no lockup when the
            // original runs on.
            self.state
                .notify_paused(vcpu, self.paused)
                .map_err(at(Step::Notify))?;
        }
        self.time.notify_ns = self.watch.lap();
        self.time.stop_ns += self.time.notify_ns;

        go_on(self.cancel, Step::Quiesce)?;
        // Before any state is read: draining a queue raises interrupts, which must be in the
        // state of the local APICs, and writes memory.
        devices.quiesce(self.paused).map_err(at(Step::Quiesce))?;
        self.time.quiesce_ns = self.watch.lap();
        self.sections(devices, vcpu_count)
    }

    fn sections(
        &mut self,
        devices: &mut QuietDevices<'_>,
        vcpu_count: usize,
    ) -> Result<Vec<SectionPayload>, SnapshotError> {
        let mut sections = Vec::with_capacity(vcpu_count);
        go_on(self.cancel, Step::CaptureVcpu)?;
        for vcpu in 0..vcpu_count {
            let section = self.state.capture_vcpu(vcpu, self.paused);
            sections.push(section.map_err(at(Step::CaptureVcpu))?);
        }
        self.time.vcpus_ns = self.watch.lap();
        // After all vCPUs: reading one may still deliver an interrupt to the chips.
        go_on(self.cancel, Step::CaptureVm)?;
        let vm = self.state.capture_vm(self.paused);
        sections.extend(vm.map_err(at(Step::CaptureVm))?);
        self.time.vm_ns = self.watch.lap();
        // After the chips, before memory: devices may write their last used rings.
        go_on(self.cancel, Step::CaptureDevices)?;
        let states = devices
            .capture(self.paused)
            .map_err(at(Step::CaptureDevices))?;
        let states = (0..).zip(&states);
        sections.extend(states.map(|(instance, state)| SectionPayload::of(instance, state)));
        self.time.devices_ns = self.watch.lap();
        let time = &mut *self.time;
        time.state_ns = time.vcpus_ns + time.vm_ns + time.devices_ns;
        Ok(sections)
    }
}
