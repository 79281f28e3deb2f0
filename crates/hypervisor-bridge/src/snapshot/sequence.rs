//! The order of a snapshot.

use snapshot_format::{PAGE_BYTES, SectionPayload, SnapshotRef};
use snapshot_memory::{
    Cancel, DirtyEpoch, GuestMemorySource, MemoryPlan, MemoryStats, Pages, Published, SnapshotSink,
    Stability, StagedSink,
};

use super::failed::{dirty, go_on, refused};
use super::pause::{Lapse, pause};
use super::{Captured, Machine, Selection, SnapshotRequest};
use crate::breakdown::{PauseBreakdown, Stopwatch};
use crate::error::SnapshotError;
use crate::metrics::{MemoryMetrics, Metrics, TrackingMetrics};
use crate::step::Step;

/// Takes a snapshot of a running machine.
///
/// The machine is resumed exactly once, devices before vCPUs, whatever happens: an error, a panic
/// of a step, or a cancel. Only a durable publish commits the dirty epoch: after an error, its
/// pages are part of the next one.
pub fn snapshot(
    mut machine: Machine<'_>,
    request: SnapshotRequest<'_>,
) -> Result<Captured, SnapshotError> {
    let _span = tracing::info_span!("snapshot").entered();
    let SnapshotRequest {
        sink,
        selection,
        cancel,
        room_bytes,
    } = request;
    let Begun {
        mut staged,
        mut metrics,
        ..
    } = begin(sink, &machine, selection, cancel, room_bytes)?;
    let mut time = PauseBreakdown::default();
    let layout = machine.memory.layout();

    let frozen = pause(
        &mut machine,
        cancel,
        &mut time,
        || (),
        |lapse| freeze_memory(lapse, &mut *staged, selection, cancel),
    )?;

    // The machine runs again. What is left needs neither it nor its memory.
    let published = publish(staged, frozen.sections, cancel, &mut time)?;
    let (epoch, memory) = frozen.memory;
    commit(epoch, published)?;
    metrics.pause = Some(time);
    metrics.memory = Some(MemoryMetrics::of(layout, &memory));
    Ok(Captured {
        published,
        memory,
        time,
        metrics,
    })
}

/// Hands over the state, seals and publishes.
pub(crate) fn publish(
    mut staged: Box<dyn StagedSink>,
    sections: Vec<SectionPayload>,
    cancel: &Cancel,
    time: &mut PauseBreakdown,
) -> Result<Published, SnapshotError> {
    let mut watch = Stopwatch::start();
    go_on(cancel, Step::Sections)?;
    for section in sections {
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
    Ok(published)
}

/// A snapshot that is staged, of a machine that runs yet.
pub(crate) struct Begun {
    pub(crate) staged: Box<dyn StagedSink>,
    /// What a diff is relative to.
    pub(crate) base: Option<SnapshotRef>,
    /// What is known of the machine.
    pub(crate) metrics: Metrics,
}

/// Does all that needs no stopped machine, before it is stopped: making directories takes longer
/// than many a pause.
pub(crate) fn begin(
    sink: &mut dyn SnapshotSink,
    machine: &Machine<'_>,
    selection: Selection<'_>,
    cancel: &Cancel,
    room_bytes: Option<u64>,
) -> Result<Begun, SnapshotError> {
    let base = base(selection)?;
    go_on(cancel, Step::Begin)?;
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
    let metrics = Metrics {
        vcpus: machine.state.vcpu_count(),
        tracking: TrackingMetrics::of(selection),
        ..Metrics::default()
    };
    Ok(Begun {
        staged,
        base,
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

/// Writes the memory of a machine that stands still.
fn freeze_memory(
    lapse: &mut Lapse<'_>,
    staged: &mut dyn StagedSink,
    selection: Selection<'_>,
    cancel: &Cancel,
) -> Result<(Option<DirtyEpoch>, MemoryStats), SnapshotError> {
    go_on(cancel, Step::Harvest)?;
    let epoch = harvest(selection)?;
    lapse.time.harvest_ns = lapse.watch.lap();

    go_on(cancel, Step::Memory)?;
    let pages = match (&selection, &epoch) {
        (Selection::Diff { .. }, Some(epoch)) => epoch.selection(),
        _ => Pages::Full,
    };
    let memory = staged
        .memory(lapse.memory, pages, Stability::Paused)
        .map_err(refused(Step::Memory))?;
    lapse.time.write_ns = lapse.watch.lap();
    Ok((epoch, memory))
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
