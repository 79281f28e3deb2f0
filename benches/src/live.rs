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
use crate::ledger::Ledger;
use crate::options::Options;
use crate::place::{Place, PlaceKind};
use crate::row::{Case, Rival, Row};
use crate::sample::Samples;
use crate::statistics::quantile;
use guest::{Machine, Writer};
use plan::{Blocks, PLANS, Plan};

mod guest;
pub(crate) mod plan;
mod program;

const SUITE: &str = "live";

/// Bytes of pages that the guest writes to in a second.
const WRITER_BYTES: u64 = 100_000_000;

/// An eighth of the memory that snapshots may take.
const MAX_MEM_BYTES: u64 = 1 << 30;

/// How long the guest writes between two snapshots.
const BETWEEN: Duration = Duration::from_millis(20);

/// Runs the suite as the options say, in `place`.
pub(crate) fn run(options: &Options, place: &Place, ledger: &mut Ledger) -> Result<(), BenchError> {
    let wanted = PLANS
        .iter()
        .filter(|plan| options.wants(plan.name, plan.is_default || options.all));
    let wanted: Vec<&Plan> = wanted.collect();
    if wanted.is_empty() {
        return Ok(());
    }
    if let Err(reason) = kvm::available() {
        eprintln!("SKIP kvm: {reason}");
        return Ok(());
    }
    let mut memory = None;
    for plan in wanted {
        eprintln!("measuring {SUITE}/{}", plan.name);
        if memory.is_none() && !plan.on_disk {
            memory = Place::new(PlaceKind::Tmpfs, &options.dir(), MAX_MEM_BYTES)?;
        }
        let place = memory.as_ref().filter(|_| !plan.on_disk).unwrap_or(place);
        ledger.add(measure(options, place, plan)?)?;
    }
    Ok(())
}

/// A guest that runs, and the store that it is frozen to.
struct Bench<'a> {
    machine: &'a Machine,
    writer: RefCell<Writer>,
    tracker: DirtyTracker,
    consumer: ConsumerId,
    store: Store,
    parent: Cell<Option<SnapshotRef>>,
}

/// What was taken: live, and of the stopped machine.
#[derive(Default)]
struct Taken {
    live: Vec<Captured>,
    stopped: Vec<Captured>,
    /// How long no live snapshot let the vCPU's thread enter the guest, without the reading of its
    /// state.
    gaps: Vec<Duration>,
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
    };
    bench.full()?;
    // The first of each is not counted.
    bench.live_diff()?;
    let (start, written) = (Instant::now(), bench.writer.borrow().written_bytes());
    let blocks = Blocks::new(options.rounds(), options.is_quick());
    let taken = bench.take(blocks)?;
    let written = bench.writer.borrow().written_bytes() - written;
    let rate = per_second(written, start.elapsed());
    drop(bench);
    place.scratch().discard(&dir)?;
    let ours = pauses("ours", &taken.live);
    let peer = pauses("stop-and-copy", &taken.stopped);
    let mut figures = figures(&taken.live);
    figures.insert("p90_ms".to_owned(), ours.quantile_ms(0.9));
    figures.insert("p99_ms".to_owned(), ours.quantile_ms(0.99));
    figures.insert("longest_ms".to_owned(), ours.quantile_ms(1.0));
    let gaps = taken.gaps.iter().map(|gap| gap.as_secs_f64() * 1e3);
    let gaps: Vec<f64> = gaps.collect();
    figures.insert("gap_p50_ms".to_owned(), quantile(&gaps, 0.5));
    figures.insert("gap_p99_ms".to_owned(), quantile(&gaps, 0.99));
    figures.insert("written_mb_per_s".to_owned(), rate);
    let case = Case {
        suite: SUITE,
        name: plan.name.to_owned(),
        policy: plan.policy(),
        file_system: Some(place.file_system().name.clone()),
        counts: BTreeMap::from([("mem_bytes".to_owned(), len_bytes)]),
        figures,
    };
    Ok(case.compare(&ours, &[Rival::Peer(peer)]))
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

    /// Takes snapshots, block by block.
    fn take(&self, blocks: Blocks) -> Result<Taken, BenchError> {
        let start = Instant::now();
        let mut taken = Taken::default();
        while blocks.go_on(taken.stopped.len(), start.elapsed()) {
            for _ in 0..blocks.pauses {
                thread::sleep(BETWEEN);
                let captured = self.live_diff()?;
                let gap = self.writer.borrow().gap();
                let state = Duration::from_nanos(captured.time.state_ns);
                taken.gaps.push(gap.saturating_sub(state));
                taken.live.push(captured);
            }
            thread::sleep(BETWEEN);
            taken.stopped.push(self.paused_diff()?);
        }
        Ok(taken)
    }

    /// One live snapshot of what was written since the last.
    fn live_diff(&self) -> Result<Captured, BenchError> {
        let (tracker, consumer) = (&self.tracker, self.consumer);
        self.live(Selection::Diff { tracker, consumer })
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
    fn paused_diff(&self) -> Result<Captured, BenchError> {
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
        Ok(captured)
    }
}

/// How long the guest stood still each time, without the reading of its state.
fn pauses(name: &'static str, taken: &[Captured]) -> Samples {
    let ns = taken.iter().map(|one| one.time.pause_without_state_ns());
    let ms = ns.map(ms).collect();
    Samples { name, ms }
}

fn ms(ns: u64) -> f64 {
    Duration::from_nanos(ns).as_secs_f64() * 1e3
}

/// Where the time of the pauses went.
fn figures(live: &[Captured]) -> BTreeMap<String, f64> {
    let values = |of: Part| live.iter().map(of).collect::<Vec<f64>>();
    let median = |(name, of): (&str, Part)| (name.to_owned(), quantile(&values(of), 0.5));
    // Which part is the long one in the pauses that the bar is about.
    let tail = |(name, of): (&str, Part)| {
        let name = name.replace("_ms", "_p99_ms");
        (name, quantile(&values(of), 0.99))
    };
    let within: [(&str, Part); 4] = [
        ("stop_ms", |one| ms(one.time.stop_ns)),
        ("harvest_ms", |one| ms(one.time.harvest_ns)),
        ("aside_ms", |one| ms(one.time.write_ns)),
        ("resume_ms", |one| ms(one.time.resume_ns)),
    ];
    let beside: [(&str, Part); 5] = [
        ("state_ms", |one| ms(one.time.state_ns)),
        ("rounds_ms", |one| ms(one.time.rounds_ns)),
        ("finish_ms", |one| ms(one.time.finish_ns)),
        ("publish_ms", |one| {
            ms(one.time.seal_ns + one.time.publish_ns)
        }),
        ("last_pages", last_pages),
    ];
    let medians = within.into_iter().chain(beside).map(median);
    medians.chain(within.into_iter().map(tail)).collect()
}

/// A figure of one snapshot.
type Part = fn(&Captured) -> f64;

/// Pages that were copied in the pause.
fn last_pages(one: &Captured) -> f64 {
    let pages = one.metrics.live.as_ref().map_or(0, |live| live.aside_pages);
    #[expect(clippy::cast_precision_loss, reason = "thousands of pages")]
    let pages = pages as f64;
    pages
}

fn per_second(bytes: u64, time: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
    let mb = bytes as f64 / 1e6;
    mb / time.as_secs_f64()
}

#[cfg(test)]
mod tests;
