//! Suite `live`: how long a guest stands still while it is frozen, with a writer in it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use hypervisor_bridge::{
    Captured, LiveOptions, LiveRequest, NoDevices, Selection, SnapshotRequest, live_snapshot,
    snapshot,
};
use snapshot_format::{SnapshotRef, VmName};
use snapshot_memory::backend::FsBackend;
use snapshot_memory::{
    Cancel, CaptureOptions, ConsumerId, DirtyTracker, GuestMemorySource, MappedMemory, MappingKind,
    MappingOptions,
};
use snapshot_store::{NewSnapshot, OpenOptions, Store, StoreSink};

use crate::error::BenchError;
use crate::kvm;
use crate::options::Options;
use crate::place::Place;
use crate::row::{Case, Rival, Row};
use crate::sample::{Contestant, alternate};
use crate::statistics::quantile;
use guest::{Machine, Writer};
use plan::{PLANS, Plan};

mod guest;
pub(crate) mod plan;
mod program;

const SUITE: &str = "live";

/// Bytes of pages that the guest writes to in a second.
const WRITER_BYTES: u64 = 100_000_000;

/// How long the guest writes between two snapshots.
const BETWEEN: Duration = Duration::from_millis(20);

/// Runs the suite as the options say, in `place`.
pub(crate) fn run(options: &Options, place: &Place) -> Result<Vec<Row>, BenchError> {
    let wanted = PLANS
        .iter()
        .filter(|plan| options.wants(plan.name, plan.is_default || options.all));
    let wanted: Vec<&Plan> = wanted.collect();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    if let Err(reason) = kvm::available() {
        eprintln!("SKIP kvm: {reason}");
        return Ok(Vec::new());
    }
    let mut rows = Vec::new();
    for plan in wanted {
        eprintln!("measuring {SUITE}/{}", plan.name);
        rows.extend(measure(options, place, plan)?);
    }
    Ok(rows)
}

/// A guest that runs, and the store that it is frozen to.
struct Bench<'a> {
    machine: &'a Machine,
    writer: RefCell<Writer>,
    tracker: DirtyTracker,
    consumer: ConsumerId,
    store: Store,
    parent: Cell<Option<SnapshotRef>>,
    /// What ours said of each live snapshot.
    live: RefCell<Vec<Captured>>,
}

fn measure(options: &Options, place: &Place, plan: &Plan) -> Result<Vec<Row>, BenchError> {
    let len_bytes = options.scaled(plan.mem_bytes);
    let memory = Arc::new(populated(len_bytes, plan.huge_pages)?);
    let (machine, vcpu) = Machine::new(memory, plan.tracking)?;
    let dir = place.scratch().path().join(plan.name);
    let backend = FsBackend::create(&dir).map_err(BenchError::at("create", &dir))?;
    let layout = machine.memory().layout().clone();
    let tracker = DirtyTracker::new(layout, vec![machine.source(plan.tracking)?])?;
    let bench = Bench {
        writer: RefCell::new(machine.start(vcpu, WRITER_BYTES)?),
        machine: &machine,
        consumer: tracker.subscribe(None),
        tracker,
        store: Store::create(Arc::new(backend), &OpenOptions::default())?,
        parent: Cell::new(None),
        live: RefCell::default(),
    };
    bench.full()?;
    let (start, written) = (Instant::now(), bench.writer.borrow().written_bytes());
    let contestants = vec![
        Contestant::new("ours", || bench.live_diff()),
        Contestant::new("stop-and-copy", || bench.paused_diff()),
    ];
    let rounds = plan::rounds(options.rounds(), options.is_quick());
    let samples = alternate(contestants, rounds, || {
        thread::sleep(BETWEEN);
        Ok(())
    })?;
    let written = bench.writer.borrow().written_bytes() - written;
    let rate = per_second(written, start.elapsed());
    let live = bench.live.take();
    drop(bench);
    place.scratch().keep(dir)?;
    let [ours, peer] = &samples[..] else {
        return Ok(Vec::new());
    };
    let live = live.get(live.len() - ours.ms.len()..).unwrap_or_default();
    let mut figures = figures(live);
    figures.insert("p99_ms".to_owned(), ours.quantile_ms(0.99));
    figures.insert("written_mb_per_s".to_owned(), rate);
    let case = Case {
        suite: SUITE,
        name: plan.name.to_owned(),
        policy: plan.policy(),
        file_system: Some(place.file_system().name.clone()),
        counts: BTreeMap::from([("mem_bytes".to_owned(), len_bytes)]),
        figures,
    };
    Ok(case.compare(ours, &[Rival::Peer(peer.clone())]))
}

/// Guest memory that is all there: looking for written pages then takes as long as it can.
fn populated(len_bytes: u64, huge_pages: bool) -> Result<MappedMemory, BenchError> {
    let failed = |source| BenchError::Map {
        len_bytes: usize::try_from(len_bytes).unwrap_or(usize::MAX),
        source,
    };
    let layout = crate::restore::layout(len_bytes)?;
    let options = MappingOptions::default()
        .kind(MappingKind::Anonymous)
        .huge_pages(huge_pages);
    let memory = MappedMemory::new(layout, options).map_err(failed)?;
    for page in 0..len_bytes / snapshot_format::PAGE_BYTES {
        let offset = page * snapshot_format::PAGE_BYTES;
        let written = memory.write(offset, &[0]);
        written.map_err(|_| BenchError::Outside { offset })?;
    }
    Ok(memory)
}

impl Bench<'_> {
    fn sink(&self) -> Result<StoreSink, BenchError> {
        let vm: VmName = "bench".parse()?;
        let capture = CaptureOptions::default().threads(CaptureOptions::best_threads());
        let new = NewSnapshot::of(vm)
            .parent(self.parent.get())
            .capture(capture);
        Ok(self.store.sink(new))
    }

    fn full(&self) -> Result<(), BenchError> {
        let (tracker, consumer) = (&self.tracker, self.consumer);
        self.live(Selection::FullTracked { tracker, consumer })?;
        Ok(())
    }

    /// One live snapshot of what was written since the last; how long the guest stood still but for
    /// the reading of its state.
    fn live_diff(&self) -> Result<Duration, BenchError> {
        let (tracker, consumer) = (&self.tracker, self.consumer);
        let captured = self.live(Selection::Diff { tracker, consumer })?;
        let took = stood_still(&captured);
        self.live.borrow_mut().push(captured);
        Ok(took)
    }

    fn live(&self, selection: Selection<'_>) -> Result<Captured, BenchError> {
        let mut sink = self.sink()?;
        let mut writer = self.writer.borrow_mut();
        let machine = hypervisor_bridge::Machine {
            vcpus: &mut *writer,
            devices: &mut NoDevices,
            state: &mut self.machine.state()?,
            memory: self.machine.memory(),
        };
        let mut options = LiveOptions::default();
        options.scan_threads = NonZeroUsize::MIN.saturating_add(1);
        let request = LiveRequest {
            sink: &mut sink,
            selection,
            cancel: &Cancel::default(),
            room_bytes: None,
            options,
        };
        let captured = live_snapshot(machine, request)?;
        self.parent.set(Some(captured.published.snapshot));
        Ok(captured)
    }

    /// The same with the guest stopped from the beginning to the last byte of memory.
    fn paused_diff(&self) -> Result<Duration, BenchError> {
        let (tracker, consumer) = (&self.tracker, self.consumer);
        let mut sink = self.sink()?;
        let mut writer = self.writer.borrow_mut();
        let machine = hypervisor_bridge::Machine {
            vcpus: &mut *writer,
            devices: &mut NoDevices,
            state: &mut self.machine.state()?,
            memory: self.machine.memory(),
        };
        let request = SnapshotRequest {
            sink: &mut sink,
            selection: Selection::Diff { tracker, consumer },
            cancel: &Cancel::default(),
            room_bytes: None,
        };
        let captured = snapshot(machine, request)?;
        self.parent.set(Some(captured.published.snapshot));
        Ok(stood_still(&captured))
    }
}

/// How long the guest stood still, without the reading of its state.
fn stood_still(captured: &Captured) -> Duration {
    let time = &captured.time;
    Duration::from_nanos(time.pause_ns().saturating_sub(time.state_ns))
}

/// Where the time of the pauses went.
fn figures(live: &[Captured]) -> BTreeMap<String, f64> {
    let median = |of: &dyn Fn(&Captured) -> f64| {
        let values: Vec<f64> = live.iter().map(of).collect();
        quantile(&values, 0.5)
    };
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    let float = |value: u64| value as f64;
    let ms = |ns: u64| float(ns) / 1e6;
    BTreeMap::from([
        ("stop_ms".to_owned(), median(&|one| ms(one.time.stop_ns))),
        ("state_ms".to_owned(), median(&|one| ms(one.time.state_ns))),
        (
            "harvest_ms".to_owned(),
            median(&|one| ms(one.time.harvest_ns)),
        ),
        ("aside_ms".to_owned(), median(&|one| ms(one.time.write_ns))),
        (
            "resume_ms".to_owned(),
            median(&|one| ms(one.time.resume_ns)),
        ),
    ])
}

fn per_second(bytes: u64, time: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
    let mb = bytes as f64 / 1e6;
    mb / time.as_secs_f64()
}

#[cfg(test)]
mod tests;
