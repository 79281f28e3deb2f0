//! Threads of a capture, counted by the kernel. Alone in its process, so that no other test counts.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "the test fails by panicking")]

use std::fs;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::Duration;

use snapshot_format::{Arch, MemoryLayout, PAGE_BYTES, PageRange, VmName};
use snapshot_memory::backend::FsBackend;
use snapshot_memory::{
    CaptureOptions, DirectorySink, DirtyTracker, GuestMemorySource, HostRun, MappedMemory,
    MappingOptions, MemoryError, SnapshotSink, Stability,
};

/// Memory that counts the threads of the process whenever it is read.
struct Counting {
    memory: MappedMemory,
    most: AtomicUsize,
}

impl GuestMemorySource for Counting {
    fn layout(&self) -> &MemoryLayout {
        self.memory.layout()
    }

    fn read_pages(&self, pages: PageRange, out: &mut [u8]) -> Result<(), MemoryError> {
        self.most.fetch_max(threads(), Ordering::SeqCst);
        self.memory.read_pages(pages, out)
    }

    fn host_run(&self, _: PageRange) -> Option<HostRun<'_>> {
        None
    }
}

/// `PF_IO_WORKER` of `linux/sched.h`: the kernel's own worker of an io_uring, which runs no code of
/// the process, and which the kernel lists beside its threads.
const IO_WORKER: u64 = 0x10;

/// Threads of this process.
fn threads() -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let stats = tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("stat")).ok());
    let is_thread = |stat: &String| {
        // The second field is a name, which may hold anything; the flags are the 9th.
        let (_, fields) = stat.rsplit_once(')').unwrap();
        let flags: u64 = fields.split_whitespace().nth(6).unwrap().parse().unwrap();
        flags & IO_WORKER == 0
    };
    stats.filter(is_thread).count()
}

/// The most threads that there were while a capture read memory.
fn most_during(options: CaptureOptions) -> usize {
    let folder = tempfile::tempdir().unwrap();
    let memory = MappedMemory::new(
        MemoryLayout::single(16 << 20).unwrap(),
        MappingOptions::default(),
    );
    let source = Counting {
        memory: memory.unwrap(),
        most: AtomicUsize::new(0),
    };
    for page in 0..source.layout().page_count() {
        source.memory.write(page * PAGE_BYTES, &[7; 64]).unwrap();
    }
    let tracker = DirtyTracker::new(source.layout().clone(), Vec::new()).unwrap();
    let epoch = tracker.epoch(tracker.subscribe(None)).unwrap();
    let backend = Arc::new(FsBackend::open(folder.path()).unwrap());
    let sink = DirectorySink::new(backend, VmName::new("vm").unwrap(), Arch::host());
    let mut sink = sink.with_capture(options);
    let mut staged = sink.begin().unwrap();
    staged
        .memory(&source, epoch.selection(), Stability::Paused)
        .unwrap();
    staged.seal().unwrap().publish().unwrap();
    source.most.into_inner()
}

// spec: EMB-04
#[test]
fn a_capture_starts_no_thread_that_the_caller_did_not_allow() {
    let before = threads();
    assert_eq!(most_during(CaptureOptions::default()), before);
    let three = NonZeroUsize::new(3).unwrap();
    assert_eq!(
        most_during(CaptureOptions::default().threads(three)),
        before + 2
    );
    // The kernel takes a thread off its list a moment after it was joined.
    let gone = (0..1000).any(|_| {
        sleep(Duration::from_millis(1));
        threads() == before
    });
    assert!(gone, "they end with the capture");
}
