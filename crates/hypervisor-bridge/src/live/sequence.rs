//! The order of a live snapshot.

use snapshot_format::SectionPayload;
use snapshot_memory::{
    Cancel, DirtyBitmap, DirtyTracker, LiveEpoch, LiveMemory, LivePlan, LiveRounds, MemoryStats,
    Published, SinkError, Stability,
};

use super::LiveRequest;
use super::options::{LiveOptions, Overflow, WhenBehind};
use super::report::LiveReport;
use super::rounds::{Ended, Rounds, Slowing};
use crate::breakdown::{PauseBreakdown, Stopwatch};
use crate::error::SnapshotError;
use crate::metrics::{MemoryMetrics, Metrics};
use crate::snapshot::{
    Begun, Captured, Lapse, Machine, Selection, begin, dirty, go_on, pause, publish, refused,
};
use crate::step::Step;

/// Takes a snapshot of a machine that runs but for a short pause.
///
/// Memory is written in rounds while the machine runs: all that the selection says, then what was
/// written meanwhile, until little is left. Then it is stopped, its state is read, the last pages
/// are copied aside, and it goes on, before anything more is written. The image is memory as it
/// was in the pause, exactly.
///
/// The machine is resumed exactly once for each time that it is stopped, devices before vCPUs,
/// whatever happens. Only a durable publish commits the dirty pages.
pub fn live_snapshot(
    mut machine: Machine<'_>,
    request: LiveRequest<'_, '_>,
) -> Result<Captured, SnapshotError> {
    let _span = tracing::info_span!("live snapshot").entered();
    let LiveRequest {
        sink,
        selection,
        cancel,
        room_bytes,
        mut options,
    } = request;
    let (tracker, consumer) = selection.tracking().ok_or(SnapshotError::NotTracked)?;
    let Begun {
        mut staged,
        base,
        mut metrics,
    } = begin(sink, &machine, selection, cancel, room_bytes)?;
    let layout = machine.memory.layout();
    let rounds = tracker.live(consumer, options.scan_threads);
    let rounds = rounds.map_err(dirty(Step::Harvest))?;
    let plan = LivePlan {
        layout,
        base,
        aside_bytes: options.aside_bytes,
        bytes_per_second: options.bytes_per_second,
    };
    let live = staged.live(plan).map_err(refused(Step::Plan))?;
    let when_behind = std::mem::take(&mut options.when_behind);
    let mut running = Running {
        live,
        rounds,
        cancel,
        report: LiveReport::default(),
        time: PauseBreakdown::default(),
    };
    let is_full = matches!(selection, Selection::FullTracked { .. });
    let (sections, epoch) =
        running.capture(&mut machine, tracker, is_full, &options, when_behind)?;

    // The machine runs again. What is left needs neither it nor its memory.
    let (memory, mut time) = running.finish(&mut metrics)?;
    let published = publish(staged, sections, cancel, &mut time)?;
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

fn commit(epoch: LiveEpoch, published: Published) -> Result<(), SnapshotError> {
    let committed = epoch.commit(published.snapshot);
    committed.map_err(|source| SnapshotError::NotCommitted {
        published,
        source: Box::new(source),
    })
}

/// A live snapshot while its memory is written.
struct Running<'a> {
    live: Box<dyn LiveMemory + 'a>,
    rounds: LiveRounds,
    cancel: &'a Cancel,
    report: LiveReport,
    time: PauseBreakdown,
}

/// What became of the last pages.
enum Last {
    Taken(LiveEpoch),
    /// There was no room for them, and the machine goes on.
    Refused(LiveEpoch),
}

impl Running<'_> {
    /// Writes rounds and pauses the machine, once unless the last pages are too many.
    fn capture(
        &mut self,
        machine: &mut Machine<'_>,
        tracker: &DirtyTracker,
        is_full: bool,
        options: &LiveOptions<'_>,
        when_behind: WhenBehind<'_>,
    ) -> Result<(Vec<SectionPayload>, LiveEpoch), SnapshotError> {
        let (mut slowing, gives_up) = Slowing::new(when_behind);
        let mut watch = Stopwatch::start();
        go_on(self.cancel, Step::Harvest)?;
        let mut due = self.rounds.first().map_err(dirty(Step::Harvest))?;
        if is_full {
            due.set_all();
        }
        loop {
            // Before the last round, whose end is to be close to the pause.
            self.rounds.refill();
            let ended = self.run(machine, due, options, gives_up, &mut slowing)?;
            let may_retry = self.report.retries < options.max_rounds;
            let overflow = match options.overflow {
                _ if ended == Ended::Behind => Overflow::Write,
                Overflow::Retry if !may_retry => Overflow::Write,
                chosen => chosen,
            };
            let rounds_ns = self.time.rounds_ns.saturating_add(watch.lap());
            let mut time = PauseBreakdown {
                rounds_ns,
                ..PauseBreakdown::default()
            };
            let (cancel, rouse) = (self.cancel, || tracker.rouse());
            let frozen = pause(machine, cancel, &mut time, rouse, |lapse| {
                self.last_pages(lapse, overflow)
            })?;
            self.time = time;
            watch.lap();
            match frozen.memory {
                Last::Taken(epoch) => {
                    for failure in epoch.failures() {
                        tracing::warn!(error = %failure, "a dirty source failed, all pages count as dirty");
                    }
                    return Ok((frozen.sections, epoch));
                }
                Last::Refused(epoch) => {
                    self.report.retries += 1;
                    self.report.retries_ns += time.pause_ns();
                    self.rounds.reopen(epoch);
                    due = self.rounds.round().map_err(dirty(Step::Harvest))?;
                }
            }
        }
    }

    fn run(
        &mut self,
        machine: &Machine<'_>,
        due: DirtyBitmap,
        options: &LiveOptions<'_>,
        gives_up: bool,
        slowing: &mut Slowing<'_>,
    ) -> Result<Ended, SnapshotError> {
        let mut rounds = Rounds {
            memory: machine.memory,
            live: &mut *self.live,
            dirty: &mut self.rounds,
            cancel: self.cancel,
            report: &mut self.report,
        };
        rounds.run(due, options, gives_up, slowing)
    }

    /// In the pause: names the last pages and copies them.
    fn last_pages(
        &mut self,
        lapse: &mut Lapse<'_>,
        overflow: Overflow,
    ) -> Result<Last, SnapshotError> {
        go_on(self.cancel, Step::Harvest)?;
        let epoch = self.rounds.close().map_err(dirty(Step::Harvest))?;
        lapse.time.harvest_ns = lapse.watch.lap();
        go_on(self.cancel, Step::Aside)?;
        let taken = self.live.set_aside(lapse.memory, epoch.pages());
        let last = match (taken, overflow) {
            (Ok(pages), _) => {
                self.report.aside_pages = pages;
                Last::Taken(epoch)
            }
            (Err(SinkError::AsideFull { .. }), Overflow::Write) => {
                let written = self
                    .live
                    .round(lapse.memory, epoch.pages(), Stability::Paused);
                self.report.paused_pages = written.map_err(refused(Step::Memory))?.pages;
                Last::Taken(epoch)
            }
            (Err(SinkError::AsideFull { .. }), Overflow::Retry) => Last::Refused(epoch),
            (Err(error), _) => return Err(refused(Step::Aside)(error)),
        };
        lapse.time.write_ns = lapse.watch.lap();
        Ok(last)
    }

    /// Writes the rest, and lets the dirty sources rest.
    fn finish(self, metrics: &mut Metrics) -> Result<(MemoryStats, PauseBreakdown), SnapshotError> {
        let Self {
            live,
            rounds,
            cancel,
            report,
            mut time,
        } = self;
        let mut watch = Stopwatch::start();
        drop(rounds);
        go_on(cancel, Step::Finish)?;
        let memory = live.finish().map_err(refused(Step::Finish))?;
        time.finish_ns = watch.lap();
        metrics.live = Some(report);
        Ok((memory, time))
    }
}
