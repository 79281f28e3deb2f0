//! Measures the pause of live snapshots of a guest that is a thread of this process.
//!
//! `live_pause [MIB] [SNAPSHOTS] [wp-async|marked] [MB_A_SECOND] [SCAN_THREADS]`: memory of so many
//! MiB, all of it touched, written at random pages at that rate; the distribution of each part of
//! the pause is printed in microseconds.

use std::error::Error;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hypervisor_bridge::testing::fake_paused;
use hypervisor_bridge::{
    LiveOptions, LiveRequest, Machine, NoDevices, PauseBreakdown, Paused, Rendezvous, Selection,
    StateCapture, StepError, VcpuStop, live_snapshot,
};
use snapshot_format::{Arch, MemoryLayout, PAGE_BYTES, PageRange, SectionPayload, VmName};
use snapshot_memory::backend::FsBackend;
use snapshot_memory::{
    Cancel, CaptureOptions, DirectorySink, DirtySource, DirtyTracker, MappedMemory, MappingOptions,
    VmmWrites, WpAsyncSource, WriteMarker,
};

/// Bytes written before the writer looks at the clock and at the rendezvous.
const BURST_PAGES: u64 = 8;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let mut number = |default: u64| args.next().map_or(Ok(default), |text| text.parse());
    let (mib, count) = (number(256)?, number(100)?);
    let mut args = std::env::args().skip(3);
    let source = args.next().unwrap_or_else(|| "wp-async".to_owned());
    let mut number = |default: u64| args.next().map_or(Ok(default), |text| text.parse());
    let (rate, threads) = (number(100)? * 1_000_000, number(2)?);
    let threads = NonZeroUsize::new(usize::try_from(threads)?).unwrap_or(NonZeroUsize::MIN);

    let layout = MemoryLayout::single(mib << 20)?;
    let memory = Arc::new(MappedMemory::new(
        layout.clone(),
        MappingOptions::default(),
    )?);
    for page in 0..layout.page_count() {
        memory.write(page * PAGE_BYTES, &[0])?;
    }
    let (writes, marker) = VmmWrites::new(layout.clone());
    let (watch, marker): (Box<dyn DirtySource>, _) = match source.as_str() {
        "wp-async" => (Box::new(WpAsyncSource::new(memory.clone())?), None),
        _ => (Box::new(writes), Some(marker)),
    };
    let tracker = DirtyTracker::new(layout, vec![watch])?;
    let consumer = tracker.subscribe(None);
    let folder = std::env::current_dir()?.join("live-pause.tmp");
    std::fs::create_dir_all(&folder)?;
    let meeting = Rendezvous::new(1);
    let ended = AtomicBool::new(false);
    let times = std::thread::scope(|scope| {
        scope.spawn(|| write(&memory, marker.as_ref(), rate, &meeting, &ended));
        let machine = Bench {
            memory: &memory,
            meeting: &meeting,
            threads,
        };
        let times = machine.take(&folder, &tracker, consumer, count);
        ended.store(true, Ordering::SeqCst);
        times
    });
    std::fs::remove_dir_all(&folder)?;
    print(&times?);
    Ok(())
}

struct Bench<'a> {
    memory: &'a MappedMemory,
    meeting: &'a Rendezvous,
    /// That look for the last pages.
    threads: NonZeroUsize,
}

impl Bench<'_> {
    /// One full snapshot, then so many diffs.
    fn take(
        &self,
        folder: &Path,
        tracker: &DirtyTracker,
        consumer: snapshot_memory::ConsumerId,
        count: u64,
    ) -> Result<Vec<PauseBreakdown>, Box<dyn Error>> {
        let mut times = Vec::new();
        let backend = Arc::new(FsBackend::open(folder)?);
        let capture = CaptureOptions::default().threads(CaptureOptions::best_threads());
        let sink = DirectorySink::new(backend, VmName::new("bench")?, Arch::host());
        let mut sink = sink.with_capture(capture);
        for number in 0..=count {
            let selection = if number == 0 {
                Selection::FullTracked { tracker, consumer }
            } else {
                Selection::Diff { tracker, consumer }
            };
            let mut options = LiveOptions::default();
            options.scan_threads = self.threads;
            let machine = Machine {
                vcpus: &mut Stop(self.meeting),
                devices: &mut NoDevices,
                state: &mut NoState,
                memory: self.memory,
            };
            let request = LiveRequest {
                sink: &mut sink,
                selection,
                cancel: &Cancel::default(),
                room_bytes: None,
                options,
            };
            let captured = live_snapshot(machine, request)?;
            if number > 0 {
                times.push(captured.time);
            }
            if number < 2 {
                println!("{number}: {:?} {:?}", captured.time, captured.metrics.live);
            }
        }
        Ok(times)
    }
}

/// Writes random pages at a rate until the end.
fn write(
    memory: &MappedMemory,
    marker: Option<&WriteMarker>,
    rate: u64,
    meeting: &Rendezvous,
    ended: &AtomicBool,
) {
    let pages = memory.len_bytes() as u64 / PAGE_BYTES;
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let (mut started, mut written) = (Instant::now(), 0u64);
    while !ended.load(Ordering::SeqCst) {
        if meeting.is_requested() {
            meeting.wait(0);
        }
        for _ in 0..BURST_PAGES {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let page = random % pages;
            let _ = memory.write(page * PAGE_BYTES, &random.to_le_bytes());
            if let Some(marker) = marker {
                marker.mark(PageRange::new(page, 1));
            }
        }
        written += BURST_PAGES * PAGE_BYTES;
        let due = Duration::from_nanos(written.saturating_mul(1_000_000_000) / rate.max(1));
        if let Some(rest) = due.checked_sub(started.elapsed()) {
            std::thread::sleep(rest.min(Duration::from_millis(1)));
        }
        if written > rate {
            (started, written) = (Instant::now(), 0);
        }
    }
}

fn print(times: &[PauseBreakdown]) {
    type Part = (&'static str, fn(&PauseBreakdown) -> u64);
    let parts: [Part; 6] = [
        (
            "pause without state",
            PauseBreakdown::pause_without_state_ns,
        ),
        ("stop", |time| time.stop_ns),
        ("harvest", |time| time.harvest_ns),
        ("aside", |time| time.write_ns),
        ("resume", |time| time.resume_ns),
        ("rounds", |time| time.rounds_ns),
    ];
    for (name, part) in parts {
        let mut values: Vec<u64> = times.iter().map(|time| part(time) / 1000).collect();
        values.sort_unstable();
        let at = |share: usize| values.get(values.len().saturating_sub(1) * share / 100);
        println!(
            "{name}: p50 {:?} p90 {:?} p99 {:?} max {:?} us",
            at(50),
            at(90),
            at(99),
            at(100)
        );
    }
}

struct Stop<'a>(&'a Rendezvous);

impl VcpuStop for Stop<'_> {
    fn stop(&mut self) -> Result<Paused, StepError> {
        self.0.gather(Duration::from_secs(5), &mut |_| {})?;
        // The one thread that stands for a vCPU waits at the rendezvous.
        Ok(fake_paused())
    }

    fn resume(&mut self) -> Result<(), StepError> {
        self.0.release();
        Ok(())
    }
}

/// A machine without state.
struct NoState;

impl StateCapture for NoState {
    fn vcpu_count(&self) -> usize {
        1
    }

    fn notify_paused(&mut self, _: usize, _: &Paused) -> Result<(), StepError> {
        Ok(())
    }

    fn capture_vcpu(&mut self, _: usize, _: &Paused) -> Result<SectionPayload, StepError> {
        let state = snapshot_format::state::VcpuX86::default();
        Ok(SectionPayload::of(0, &state))
    }

    fn capture_vm(&mut self, _: &Paused) -> Result<Vec<SectionPayload>, StepError> {
        Ok(Vec::new())
    }
}
