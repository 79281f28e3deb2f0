//! The order of a snapshot.

use snapshot_format::{PAGE_BYTES, SectionPayload, SnapshotRef};
use snapshot_memory::{
    DirtyEpoch, DirtyError, GuestMemorySource, MemoryPlan, MemoryStats, Pages, Published,
    SinkError, Stability, StagedSink,
};

use super::guards::{QuietDevices, StoppedVcpus};
use super::{Captured, Machine, Selection, SnapshotRequest};
use crate::breakdown::{PauseBreakdown, Stopwatch};
use crate::error::{SnapshotError, StepError};
use crate::machine::StateCapture;
use crate::metrics::{MemoryMetrics, Metrics, TrackingMetrics};
use crate::paused::Paused;
use crate::step::Step;
use snapshot_memory::Cancel;

/// What the pause yields.
struct Frozen {
    sections: Vec<SectionPayload>,
    epoch: Option<DirtyEpoch>,
    memory: MemoryStats,
}

/// Takes a snapshot of a running machine.
///
/// The machine is resumed exactly once, devices before vCPUs, whatever happens: an error, a panic
/// of a step, or a cancel. Only a durable publish commits the dirty epoch: after an error, its
/// pages are part of the next one.
pub fn snapshot(
    machine: Machine<'_>,
    request: SnapshotRequest<'_>,
) -> Result<Captured, SnapshotError> {
    let _span = tracing::info_span!("snapshot").entered();
    let SnapshotRequest {
        sink,
        selection,
        cancel,
        room_bytes,
    } = request;
    let base = base(selection)?;
    go_on(cancel, Step::Begin)?;
    // Before the pause: making directories takes longer than many a pause.
    let mut staged = sink.begin().map_err(refused(Step::Begin))?;
    go_on(cancel, Step::Plan)?;
    let bytes = match room_bytes {
        Some(bytes) => bytes,
        None => known_bytes(selection, machine.memory)?,
    };
    let plan = MemoryPlan {
        layout: machine.memory.layout(),
        base,
        bytes,
        cancel,
    };
    staged.prepare(plan).map_err(refused(Step::Plan))?;
    let mut time = PauseBreakdown::default();
    // Asked for before the pause, as all that needs no stopped machine.
    let mut metrics = Metrics {
        vcpus: machine.state.vcpu_count(),
        tracking: TrackingMetrics::of(selection),
        ..Metrics::default()
    };
    let layout = machine.memory.layout();

    let frozen = pause(machine, &mut *staged, selection, cancel, &mut time)?;

    // The machine runs again. What is left needs neither it nor its memory.
    let mut watch = Stopwatch::start();
    go_on(cancel, Step::Sections)?;
    for section in frozen.sections {
        staged.section(section).map_err(refused(Step::Sections))?;
    }
    go_on(cancel, Step::Seal)?;
    let sealed = staged.seal().map_err(refused(Step::Seal))?;
    time.seal_ns = watch.lap();
    go_on(cancel, Step::Publish)?;
    let published = sealed.publish().map_err(|source| SnapshotError::Publish {
        source: Box::new(source),
    })?;
    time.publish_ns = watch.lap();
    commit(frozen.epoch, published)?;
    metrics.pause = Some(time);
    metrics.memory = Some(MemoryMetrics::of(layout, &frozen.memory));
    Ok(Captured {
        published,
        memory: frozen.memory,
        time,
        metrics,
    })
}

/// What a diff is relative to, without which there is none; `None` for a full snapshot.
fn base(selection: Selection<'_>) -> Result<Option<SnapshotRef>, SnapshotError> {
    let Selection::Diff { tracker, consumer } = selection else {
        return Ok(None);
    };
    let base = tracker.base(consumer).map_err(dirty(Step::Begin))?;
    base.ok_or(SnapshotError::NoBase).map(Some)
}

/// Bytes of pages that the snapshot takes, as far as that is known while the machine runs.
fn known_bytes(
    selection: Selection<'_>,
    memory: &dyn GuestMemorySource,
) -> Result<u64, SnapshotError> {
    let Selection::Diff { tracker, consumer } = selection else {
        return Ok(memory.layout().len_bytes());
    };
    let pages = tracker.pending(consumer).map_err(dirty(Step::Plan))?;
    Ok(pages.saturating_mul(PAGE_BYTES))
}

/// Stops the machine, freezes it, and lets it go on.
fn pause(
    machine: Machine<'_>,
    staged: &mut dyn StagedSink,
    selection: Selection<'_>,
    cancel: &Cancel,
    time: &mut PauseBreakdown,
) -> Result<Frozen, SnapshotError> {
    let Machine {
        vcpus,
        devices,
        state,
        memory,
    } = machine;
    go_on(cancel, Step::Stop)?;
    let mut watch = Stopwatch::start();
    // The guards drop in reverse: devices go on before the vCPUs that may ask them for something.
    let mut vcpus = StoppedVcpus::guard(vcpus);
    let mut devices = QuietDevices::guard(devices);
    let frozen = vcpus.stop().map_err(at(Step::Stop)).and_then(|paused| {
        let mut freezing = Freezing {
            state,
            memory,
            staged,
            cancel,
            paused: &paused,
            time,
            watch: &mut watch,
        };
        freezing.freeze(&mut devices, selection)
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
    memory: &'a dyn GuestMemorySource,
    staged: &'a mut dyn StagedSink,
    cancel: &'a Cancel,
    paused: &'a Paused,
    time: &'a mut PauseBreakdown,
    watch: &'a mut Stopwatch,
}

impl Freezing<'_> {
    fn freeze(
        &mut self,
        devices: &mut QuietDevices<'_>,
        selection: Selection<'_>,
    ) -> Result<Frozen, SnapshotError> {
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

        let sections = self.sections(devices, vcpu_count)?;

        // Memory last: reading clock, steal time, devices may all have written to it.
        go_on(self.cancel, Step::Harvest)?;
        let epoch = harvest(selection)?;
        self.time.harvest_ns = self.watch.lap();

        go_on(self.cancel, Step::Memory)?;
        let pages = match (&selection, &epoch) {
            (Selection::Diff { .. }, Some(epoch)) => epoch.selection(),
            _ => Pages::Full,
        };
        let memory = self
            .staged
            .memory(self.memory, pages, Stability::Paused)
            .map_err(refused(Step::Memory))?;
        self.time.write_ns = self.watch.lap();
        Ok(Frozen {
            sections,
            epoch,
            memory,
        })
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

fn harvest(selection: Selection<'_>) -> Result<Option<DirtyEpoch>, SnapshotError> {
    let Some((tracker, consumer)) = selection.tracking() else {
        return Ok(None);
    };
    let epoch = tracker.epoch(consumer).map_err(dirty(Step::Harvest))?;
    for failure in epoch.failures() {
        // Not an error: the tracker has marked all pages instead.
        tracing::warn!(error = %failure, "a dirty source failed, all pages count as dirty");
    }
    Ok(Some(epoch))
}

fn commit(epoch: Option<DirtyEpoch>, published: Published) -> Result<(), SnapshotError> {
    let Some(epoch) = epoch else {
        return Ok(());
    };
    epoch
        .commit(published.snapshot)
        .map_err(|source| SnapshotError::NotCommitted {
            published,
            source: Box::new(source),
        })
}

fn go_on(cancel: &Cancel, step: Step) -> Result<(), SnapshotError> {
    if cancel.is_asked() {
        return Err(SnapshotError::Cancelled { step });
    }
    Ok(())
}

fn at(step: Step) -> impl Fn(StepError) -> SnapshotError {
    move |source| SnapshotError::Step { step, source }
}

fn refused(step: Step) -> impl Fn(SinkError) -> SnapshotError {
    move |source| match source {
        SinkError::Cancelled => SnapshotError::Cancelled { step },
        source => SnapshotError::Sink {
            step,
            source: Box::new(source),
        },
    }
}

fn dirty(step: Step) -> impl Fn(DirtyError) -> SnapshotError {
    move |source| SnapshotError::Dirty {
        step,
        source: Box::new(source),
    }
}
