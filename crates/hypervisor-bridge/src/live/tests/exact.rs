//! The image of a guest that never stops writing, compared with its memory in the pause.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use snapshot_format::{Arch, Digest, MemoryLayout, PAGE_BYTES, PageRange, SectionPayload, VmName};
use snapshot_memory::backend::{Backend, MemBackend};
use snapshot_memory::skip::skip;
use snapshot_memory::{
    Cancel, DirectorySink, DirtySource, DirtyTracker, GuestMemorySource, MappedMemory, MappingKind,
    MappingOptions, PublishedSnapshot, VmmWrites, WpAsyncSource, WriteMarker,
};

use crate::error::StepError;
use crate::live::{LiveOptions, LiveRequest, live_snapshot};
use crate::machine::{NoDevices, StateCapture, VcpuStop};
use crate::paused::Paused;
use crate::rendezvous::Rendezvous;
use crate::snapshot::{Machine, Selection};
use crate::testing::fake_paused;

const PAGES: u64 = 600;

/// Snapshots of each kind of memory and source.
const SNAPSHOTS: u32 = 120;

/// Takes the digest of memory where the state of a machine is captured: in the pause.
struct Witness<'a> {
    memory: &'a MappedMemory,
    seen: Mutex<Option<Digest>>,
}

fn digest(memory: &dyn GuestMemorySource) -> Digest {
    let mut bytes = vec![0; memory.layout().len_bytes().try_into().unwrap()];
    memory
        .read_pages(PageRange::new(0, PAGES), &mut bytes)
        .unwrap();
    Digest::of(&bytes)
}

impl StateCapture for &Witness<'_> {
    fn vcpu_count(&self) -> usize {
        1
    }

    fn notify_paused(&mut self, _: usize, _: &Paused) -> Result<(), StepError> {
        Ok(())
    }

    fn capture_vcpu(&mut self, _: usize, _: &Paused) -> Result<SectionPayload, StepError> {
        *self.seen.lock().unwrap() = Some(digest(self.memory));
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

/// Writes pages all over, some of them zero, until the end.
fn guest(
    memory: &MappedMemory,
    marker: Option<&WriteMarker>,
    meeting: &Rendezvous,
    ended: &AtomicBool,
) {
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    while !ended.load(Ordering::SeqCst) {
        if meeting.is_requested() {
            meeting.wait(0);
        }
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let page = random % PAGES;
        let value = if random.is_multiple_of(5) { 0 } else { random };
        let words = value.to_le_bytes().repeat(512);
        memory.write(page * PAGE_BYTES, &words).unwrap();
        if let Some(marker) = marker {
            marker.mark(PageRange::new(page, 1));
        }
        if random.is_multiple_of(64) {
            std::thread::yield_now();
        }
    }
}

/// Takes snapshots one after the other, a full one now and then, and compares each.
fn check(
    memory: &Arc<MappedMemory>,
    marker: Option<&WriteMarker>,
    source: Box<dyn DirtySource>,
    which: u64,
) {
    let backend: Arc<dyn Backend> = Arc::new(MemBackend::new());
    let tracker = DirtyTracker::new(memory.layout().clone(), vec![source]).unwrap();
    let consumer = tracker.subscribe(None);
    let vm = VmName::new("vm").unwrap();
    let mut sink = DirectorySink::new(backend.clone(), vm, Arch::host());
    let (meeting, ended) = (Rendezvous::new(1), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| guest(memory, marker, &meeting, &ended));
        let _ends = Ends(&ended);
        for number in 0..SNAPSHOTS {
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
            let options = LiveOptions {
                threshold_pages: u64::from(number % 5) * 20,
                max_rounds: 1 + number % 4,
                // Sometimes too little.
                aside_bytes: u64::from(number % 3) * (1 << 20),
                scan_threads: NonZeroUsize::new(1 + number as usize % 2).unwrap(),
                ..LiveOptions::default()
            };
            let machine = Machine {
                vcpus: &mut Stop(&meeting),
                devices: &mut NoDevices,
                state: &mut &witness,
                memory: &**memory,
            };
            let request = LiveRequest {
                sink: &mut sink,
                selection,
                cancel: &Cancel::default(),
                room_bytes: Some(0),
                options,
            };
            let captured = live_snapshot(machine, request).unwrap();
            let id = captured.published.snapshot.id;
            let image = PublishedSnapshot::open(&*backend, id).unwrap();
            let image = image.image(&*backend).unwrap();
            let mut bytes = vec![0; memory.layout().len_bytes().try_into().unwrap()];
            image
                .read_pages(PageRange::new(0, PAGES), &mut bytes)
                .unwrap();
            let found = Digest::of(&bytes);
            let seen = *witness.seen.lock().unwrap();
            assert_eq!(Some(found), seen, "snapshot {number} of {which}");
        }
    });
}

/// Ends the guest, also when a snapshot fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn mapped(kind: MappingKind) -> Arc<MappedMemory> {
    let layout = MemoryLayout::single(PAGES * PAGE_BYTES).unwrap();
    let options = MappingOptions::default().kind(kind);
    Arc::new(MappedMemory::new(layout, options).unwrap())
}

// spec: LIV-01
#[test]
fn images_under_load_are_memory_at_the_pause_by_write_protection() {
    for (number, kind) in [(0, MappingKind::Anonymous), (1, MappingKind::Memfd)] {
        let memory = mapped(kind);
        match WpAsyncSource::new(memory.clone()) {
            Ok(source) => check(&memory, None, Box::new(source), number),
            Err(error) => return skip("uffd", &error.to_string()),
        }
    }
}

// spec: LIV-01
#[test]
fn images_under_load_are_memory_at_the_pause_by_marks() {
    let memory = mapped(MappingKind::Anonymous);
    let (writes, marker) = VmmWrites::new(memory.layout().clone());
    check(&memory, Some(&marker), Box::new(writes), 2);
}
