//! Snapshots of a tracked machine in a directory: what a cancel and a full disk leave behind.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use snapshot_format::{Arch, PAGE_BYTES, PageRange, VmName};
use snapshot_memory::backend::{Backend, FaultBackend, MemBackend, RelPath};
use snapshot_memory::{
    CaptureControl, CaptureOptions, DirectorySink, PublishedSnapshot, SinkError, VmmWrites,
    WriteMarker,
};

use super::*;

const PAGES: u64 = 4096;

/// Written between the two snapshots: several chunks of the writer.
const WRITTEN: PageRange = PageRange::new(100, 3000);

struct Rig {
    disk: Arc<FaultBackend>,
    memory: MappedMemory,
    marker: WriteMarker,
    tracker: DirtyTracker,
    consumer: ConsumerId,
    script: Script,
    control: CaptureControl,
    room_bytes: Option<u64>,
}

impl Rig {
    fn new(script: Script) -> Self {
        let layout = MemoryLayout::single(PAGES * PAGE_BYTES).unwrap();
        let memory = MappedMemory::new(layout.clone(), MappingOptions::default()).unwrap();
        let (writes, marker) = VmmWrites::new(layout.clone());
        let tracker = DirtyTracker::new(layout, vec![Box::new(writes)]).unwrap();
        let consumer = tracker.subscribe(None);
        Self {
            disk: Arc::new(FaultBackend::new(&MemBackend::new())),
            memory,
            marker,
            tracker,
            consumer,
            script,
            control: CaptureControl::default(),
            room_bytes: None,
        }
    }

    fn write(&self, pages: PageRange, byte: u8) {
        for page in pages.start.0..pages.end().0 {
            let at = page * PAGE_BYTES;
            self.memory.write(at, &[byte; 64]).unwrap();
        }
        self.marker.mark(pages);
    }

    fn sink(&self) -> DirectorySink {
        let capture = CaptureOptions::default().control(self.control.clone());
        let sink = DirectorySink::new(self.disk.clone(), VmName::new("vm").unwrap(), Arch::host());
        match self.tracker.base(self.consumer).unwrap() {
            None => sink.with_capture(capture),
            Some(base) => sink.with_parent(base.id).unwrap().with_capture(capture),
        }
    }

    /// Takes a full snapshot, and diffs from then on.
    fn take(&self, script: &Script) -> Result<Captured, SnapshotError> {
        let (tracker, consumer) = (&self.tracker, self.consumer);
        let selection = match tracker.base(consumer).unwrap() {
            None => Selection::FullTracked { tracker, consumer },
            Some(_) => Selection::Diff { tracker, consumer },
        };
        let machine = Machine {
            vcpus: &mut FakeVcpus(script.clone()),
            devices: &mut FakeDevices(script.clone()),
            state: &mut FakeState {
                script: script.clone(),
                ..FakeState::default()
            },
            memory: &self.memory,
        };
        let request = SnapshotRequest {
            sink: &mut self.sink(),
            selection,
            cancel: script.cancel(),
            room_bytes: self.room_bytes,
        };
        snapshot(machine, request)
    }

    fn names(&self) -> Vec<String> {
        let entries = self.disk.list(&RelPath::root()).unwrap();
        entries.into_iter().map(|entry| entry.name).collect()
    }

    /// After a diff that failed: nothing of it is there, and its pages are in the next epoch.
    fn check_undone(&self, full: &Captured, what: &str) {
        let base = full.published.snapshot;
        assert_eq!(self.names(), [base.id.to_string()], "{what}");
        assert_eq!(
            self.script.count("stop"),
            self.script.count("resume vcpus"),
            "{what}"
        );
        let epoch = self.tracker.epoch(self.consumer).unwrap();
        assert_eq!(epoch.base(), Some(base), "{what}");
        let runs: Vec<_> = epoch.pages().iter_runs().collect();
        assert_eq!(runs, [WRITTEN], "{what}");
    }

    /// The next diff is whole.
    fn check_next(&mut self, what: &str) {
        self.control = CaptureControl::default();
        let next = self.take(&Script::default()).unwrap();
        assert_eq!(next.memory.present, WRITTEN.count, "{what}");
        let id = next.published.snapshot.id;
        let stored = PublishedSnapshot::open(&*self.disk, id).unwrap();
        let image = stored.image(&*self.disk).unwrap();
        let differing = image.differing_pages(&self.memory, None).unwrap();
        assert_eq!(differing.count(), 0, "{what}");
    }
}

#[test]
fn what_a_snapshot_did_is_told_in_one_value() {
    let script = Script::default();
    let rig = Rig::new(script.clone());
    rig.write(PageRange::new(0, 10), 1);
    rig.take(&script).unwrap();
    rig.write(WRITTEN, 2);
    let done = rig.take(&script).unwrap();
    let told = serde_json::to_value(&done.metrics).unwrap();
    assert_eq!(told["vcpus"], 2);
    assert_eq!(told["pause"]["write_ns"], done.time.write_ns);
    assert_eq!(told["restore"], serde_json::Value::Null);
    let memory = &told["memory"];
    assert_eq!(memory["guest_bytes"], PAGES * PAGE_BYTES);
    assert_eq!(memory["pages_present"], WRITTEN.count);
    assert_eq!(memory["pages_inherited"], PAGES - WRITTEN.count);
    assert!(["sparse", "packed"].contains(&memory["layout"].as_str().unwrap()));
    let tracking = &told["tracking"];
    assert_eq!(tracking["mode"], "diff");
    let source = serde_json::json!({"name": "vmm", "guarantee": "exact", "granule_bytes": 4096});
    assert_eq!(tracking["sources"], serde_json::json!([source]));
    assert_eq!(tracking["unseen"][0], "vcpus");
}

// spec: PUB-15
#[test]
fn a_cancel_at_any_step_gives_the_dirty_pages_back() {
    let steps = [
        "stop",
        "notify 0",
        "quiesce",
        "capture vcpu 1",
        "capture vm",
        "capture devices",
        "resume devices",
        "resume vcpus",
    ];
    for step in steps {
        let mut rig = Rig::new(Script::breaking(step, Break::Cancel));
        rig.write(PageRange::new(0, PAGES), 1);
        let full = rig.take(&Script::default()).unwrap();
        rig.write(WRITTEN, 2);
        let cancelled = rig.take(&rig.script).unwrap_err();
        assert!(
            matches!(cancelled, SnapshotError::Cancelled { .. }),
            "{step}: {cancelled}"
        );
        rig.check_undone(&full, step);
        rig.check_next(step);
    }
}

// spec: DRT-03
// spec: MEM-09
// spec: PUB-15
#[test]
fn a_cancel_while_memory_is_written_gives_the_dirty_pages_back() {
    let mut rig = Rig::new(Script::default());
    rig.write(PageRange::new(0, PAGES), 1);
    let full = rig.take(&Script::default()).unwrap();
    rig.write(WRITTEN, 2);
    let cancel = rig.script.cancel().clone();
    rig.control = CaptureControl::default().progress(move |so_far| {
        assert!(so_far.taken_bytes < so_far.total_bytes, "it went on");
        cancel.ask();
    });
    let cancelled = rig.take(&rig.script).unwrap_err();
    let SnapshotError::Cancelled { step } = cancelled else {
        panic!("{cancelled}");
    };
    assert_eq!(step, Step::Memory);
    rig.check_undone(&full, "memory");
    rig.check_next("memory");
}

// spec: PUB-15
#[test]
fn a_cancel_ends_the_wait_of_a_slow_capture() {
    let mut rig = Rig::new(Script::default());
    rig.write(PageRange::new(0, PAGES), 1);
    let full = rig.take(&Script::default()).unwrap();
    rig.write(WRITTEN, 2);
    // A page in an hour: only the cancel of the request can end it.
    let waits = Arc::new(AtomicBool::new(false));
    rig.control = CaptureControl::default().bytes_per_second(NonZeroU64::new(1));
    let cancelled = thread::scope(|scope| {
        let cancel = rig.script.cancel().clone();
        let waits = waits.clone();
        let script = rig.script.clone();
        scope.spawn(move || {
            while script.count("capture devices") == 0 {
                thread::yield_now();
            }
            waits.store(true, Ordering::SeqCst);
            cancel.ask();
        });
        rig.take(&rig.script).unwrap_err()
    });
    assert!(waits.load(Ordering::SeqCst));
    assert!(
        matches!(cancelled, SnapshotError::Cancelled { .. }),
        "{cancelled}"
    );
    rig.check_undone(&full, "slow");
    rig.check_next("slow");
}

// spec: PUB-14
#[test]
fn a_full_disk_costs_no_pause() {
    let mut rig = Rig::new(Script::default());
    rig.write(PageRange::new(0, PAGES), 1);
    rig.disk.limit_bytes(PAGES * PAGE_BYTES);
    let refused = rig.take(&rig.script).unwrap_err();
    check_no_room(&refused, PAGES * PAGE_BYTES);
    assert_eq!(rig.script.reached(), Vec::<String>::new());
    assert_eq!(rig.names(), Vec::<String>::new());

    // Whoever knows better goes on, and is stopped by the disk.
    rig.room_bytes = Some(0);
    let full = rig.take(&rig.script).unwrap_err();
    let SnapshotError::Sink { step, source } = full else {
        panic!("{full}");
    };
    assert_eq!(step, Step::Memory);
    assert!(matches!(*source, SinkError::File(error) if error.is_no_space()));
    assert_eq!(rig.script.count("stop"), rig.script.count("resume vcpus"));
    assert_eq!(rig.names(), Vec::<String>::new());
}

// spec: PUB-14
#[test]
fn a_diff_asks_for_room_for_what_was_harvested_before() {
    let rig = Rig::new(Script::default());
    rig.write(PageRange::new(0, 1), 1);
    let full = rig.take(&Script::default()).unwrap();
    rig.write(WRITTEN, 2);
    // A round of a live migration, or an epoch that was given up.
    assert!(rig.tracker.harvest().is_empty());
    rig.disk.limit_bytes(WRITTEN.count * PAGE_BYTES);
    let refused = rig.take(&rig.script).unwrap_err();
    check_no_room(&refused, WRITTEN.count * PAGE_BYTES);
    assert_eq!(rig.script.reached(), Vec::<String>::new());
    rig.check_undone(&full, "no room");
}

/// Refused before the pause, for memory of so many bytes and what comes with it.
fn check_no_room(refused: &SnapshotError, memory_bytes: u64) {
    let SnapshotError::Sink { step, source } = refused else {
        panic!("{refused}");
    };
    assert_eq!(*step, Step::Plan);
    let SinkError::NoRoom {
        needed_bytes,
        free_bytes,
    } = **source
    else {
        panic!("{source}");
    };
    assert!(needed_bytes > memory_bytes && needed_bytes < memory_bytes * 5 / 4);
    assert!(free_bytes <= memory_bytes);
}
