//! Live snapshots of a guest that never stops writing, compared with its memory in the pause.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use snapshot_format::{Arch, Digest, PageRange, SectionPayload, VmName};
use snapshot_memory::backend::{Backend, MemBackend};
use snapshot_memory::{
    Cancel, DirectorySink, DirtySource, DirtyTracker, GuestMemorySource, PublishedSnapshot,
};

use super::fake_paused;
use crate::error::StepError;
use crate::live::{LiveOptions, LiveRequest, live_snapshot};
use crate::machine::{NoDevices, StateCapture, VcpuStop};
use crate::paused::Paused;
use crate::rendezvous::Rendezvous;
use crate::snapshot::{Machine, Selection};

/// Takes the digest of memory where the state of a machine is captured: in the pause.
struct Witness<'a> {
    memory: &'a dyn GuestMemorySource,
    seen: Mutex<Option<Digest>>,
}

fn digest(
    memory: &dyn GuestMemorySource,
    read: impl FnOnce(PageRange, &mut [u8]) -> Result<(), StepError>,
) -> Result<Digest, StepError> {
    let layout = memory.layout();
    let mut bytes = vec![0; usize::try_from(layout.len_bytes())?];
    read(PageRange::new(0, layout.page_count()), &mut bytes)?;
    Ok(Digest::of(&bytes))
}

impl StateCapture for &Witness<'_> {
    fn vcpu_count(&self) -> usize {
        1
    }

    fn notify_paused(&mut self, _: usize, _: &Paused) -> Result<(), StepError> {
        Ok(())
    }

    fn capture_vcpu(&mut self, _: usize, _: &Paused) -> Result<SectionPayload, StepError> {
        let memory = self.memory;
        let seen = digest(memory, |pages, out| Ok(memory.read_pages(pages, out)?))?;
        let mut place = self.seen.lock().map_err(|_| "another look panicked")?;
        *place = Some(seen);
        Ok(SectionPayload::of(
            0,
            &snapshot_format::state::VcpuX86::default(),
        ))
    }

    fn capture_vm(&mut self, _: &Paused) -> Result<Vec<SectionPayload>, StepError> {
        Ok(Vec::new())
    }
}

struct Stop<'a>(&'a Rendezvous);

impl VcpuStop for Stop<'_> {
    fn stop(&mut self) -> Result<Paused, StepError> {
        self.0.gather(Duration::from_secs(30), &mut |_| {})?;
        Ok(fake_paused())
    }

    fn resume(&mut self) -> Result<(), StepError> {
        self.0.release();
        Ok(())
    }
}

/// Ends the guest, also when a snapshot fails.
struct Ends<'a>(&'a AtomicBool, &'a Rendezvous);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
        self.1.release();
    }
}

/// Takes `snapshots` live snapshots of `memory`, one after the other and a full one now and then,
/// while a thread that plays the one vCPU calls `write` over and over, each time with another number
/// at random, to write somewhere. Each image must be the memory of its pause.
pub fn live_image_suite(
    memory: &dyn GuestMemorySource,
    source: Box<dyn DirtySource>,
    snapshots: u32,
    write: &mut (dyn FnMut(u64) + Send),
) -> Result<(), StepError> {
    let (meeting, ended) = (Rendezvous::new(1), AtomicBool::new(false));
    let last_pages = thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = 0x9E37_79B9_7F4A_7C15_u64;
            while !ended.load(Ordering::SeqCst) {
                if meeting.is_requested() {
                    meeting.wait(0);
                }
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                write(random);
            }
        });
        let _ends = Ends(&ended, &meeting);
        take_all(memory, source, &meeting, snapshots)
    })?;
    let snapshots = u64::from(snapshots);
    assert!(
        last_pages > snapshots,
        "the guest wrote {last_pages} pages shortly before {snapshots} pauses: it was no load"
    );
    Ok(())
}

/// Gives how many pages were left for the pauses.
fn take_all(
    memory: &dyn GuestMemorySource,
    source: Box<dyn DirtySource>,
    meeting: &Rendezvous,
    snapshots: u32,
) -> Result<u64, StepError> {
    let name = source.name();
    let backend: Arc<dyn Backend> = Arc::new(MemBackend::new());
    let tracker = DirtyTracker::new(memory.layout().clone(), vec![source])?;
    let consumer = tracker.subscribe(None);
    let mut sink = DirectorySink::new(backend.clone(), VmName::new("vm")?, Arch::host());
    let mut last_pages = 0;
    for number in 0..snapshots {
        let tracker = &tracker;
        let selection = if number.is_multiple_of(24) {
            Selection::FullTracked { tracker, consumer }
        } else {
            Selection::Diff { tracker, consumer }
        };
        let witness = Witness {
            memory,
            seen: Mutex::new(None),
        };
        let threads = NonZeroUsize::new(1 + usize::try_from(number % 2)?);
        let options = LiveOptions {
            threshold_pages: u64::from(number % 5) * 20,
            max_rounds: 1 + number % 4,
            // Sometimes too little.
            aside_bytes: u64::from(number % 3) * (1 << 20),
            scan_threads: threads.unwrap_or(NonZeroUsize::MIN),
            ..LiveOptions::default()
        };
        let machine = Machine {
            vcpus: &mut Stop(meeting),
            devices: &mut NoDevices,
            state: &mut &witness,
            memory,
        };
        let request = LiveRequest {
            sink: &mut sink,
            selection,
            cancel: &Cancel::default(),
            room_bytes: Some(0),
            options,
        };
        let captured = live_snapshot(machine, request)?;
        let live = captured.metrics.live.unwrap_or_default();
        last_pages += live.aside_pages + live.paused_pages;
        let found = PublishedSnapshot::open(&*backend, captured.published.snapshot.id)?;
        let image = found.image(&*backend)?;
        let found = digest(memory, |pages, out| Ok(image.read_pages(pages, out)?))?;
        let seen = witness.seen.into_inner().ok().flatten();
        assert_eq!(Some(found), seen, "snapshot {number} by {name}");
    }
    Ok(last_pages)
}
