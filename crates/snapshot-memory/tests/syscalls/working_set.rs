//! Working sets: brought back, observed, and made anew.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use snapshot_format::{PAGE_BYTES, PageRange, SnapshotRef, WorkingSetOrigin};
use snapshot_memory::backend::{Backend, FsBackend, RelPath};
use snapshot_memory::skip::skip;
use snapshot_memory::syscalls::{self, PROCESS};
use snapshot_memory::testing::under_filter;
use snapshot_memory::{
    CaptureOptions, Change, FreshMemory, HoldBack, KernelFacts, MappedMemory, MappingOptions,
    MemoryFacts, MemoryImage, MethodKind, Observed, PublishedSnapshot, Refreshed, ReplayOptions,
    RestoreCosts, RestoreFrom, RestorePlan, RestoredMemory, ServeOptions, StagedFile, TargetFacts,
    TargetKind, TouchedPages, UffdOptions, Verdict, Verification, Wanted, WorkingSet,
    WorkingSetError, WorkingSetKeeper, WorkingSetOptions, write_working_set,
};
use tempfile::TempDir;

use super::{PAGES, capture, directory, memory};

/// More than comes before the guest runs.
const SET_PAGES: u64 = 1700;

/// A working set beside its snapshot, in a directory of which there is a descriptor.
#[derive(Debug)]
struct Kept {
    backend: FsBackend,
    snapshot: SnapshotRef,
    image: Arc<MemoryImage>,
    number: std::sync::atomic::AtomicU32,
}

impl Kept {
    /// The newest snapshot below `root`.
    fn new(root: OwnedFd) -> Self {
        let backend = FsBackend::from_fd(root).unwrap();
        let entries = backend.list(&RelPath::root()).unwrap();
        let ids = entries.iter().filter_map(|entry| entry.name.parse().ok());
        let found = PublishedSnapshot::open(&backend, ids.max().unwrap()).unwrap();
        Self {
            image: Arc::new(found.image(&backend).unwrap()),
            snapshot: found.reference(),
            number: 0.into(),
            backend,
        }
    }

    fn path(&self) -> RelPath {
        let number = self.number.load(std::sync::atomic::Ordering::Relaxed);
        RelPath::root().join(&format!("set-{number}")).unwrap()
    }

    fn write(&self, touched: &TouchedPages) -> snapshot_memory::WrittenWorkingSet {
        self.number
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut file = StagedFile::create(&self.backend, self.path()).unwrap();
        let options = WorkingSetOptions::default();
        let written = write_working_set(&*self.image, self.snapshot, touched, &options, &mut file);
        file.seal().unwrap();
        written.unwrap()
    }

    fn fresh(&self) -> Arc<MappedMemory> {
        let layout = self.image.layout().clone();
        let options = MappingOptions::default().huge_pages(false);
        Arc::new(MappedMemory::new(layout, options).unwrap())
    }

    /// Brings the snapshot back by a plan of this method.
    fn restore(&self, method: MethodKind, from: &RestoreFrom) -> RestoredMemory {
        let kernel = KernelFacts {
            page_bytes: PAGE_BYTES,
            missing: true,
            ..KernelFacts::default()
        };
        let target = TargetFacts::new(TargetKind::Anonymous, kernel);
        let wanted = Wanted::default().method(method);
        let wanted = match method {
            MethodKind::Mapped => wanted.verification(Verification::Trusted),
            _ => wanted,
        };
        let facts = MemoryFacts::of(&self.image, wanted).unwrap();
        let facts = facts.working_set(1 << 20);
        let costs = RestoreCosts::default();
        let plan = RestorePlan::choose(&facts, &target, wanted, &costs).unwrap();
        plan.run(&self.fresh(), from).unwrap()
    }
}

impl WorkingSetKeeper for Kept {
    fn open(&self) -> Result<Option<WorkingSet>, WorkingSetError> {
        let file = self.backend.open(&self.path()).unwrap();
        WorkingSet::open(file, "set", self.snapshot, self.image.layout()).map(Some)
    }

    fn refresh(&self, observed: &Observed) -> Result<Refreshed, WorkingSetError> {
        let change = Change::of(None, observed, &WorkingSetOptions::default());
        Ok(match change.pages(None, observed) {
            None => Refreshed::kept(change),
            Some(pages) => Refreshed::published(change, 1, self.write(&pages)),
        })
    }
}

/// A directory with a chain of two.
fn chain() -> (TempDir, OwnedFd) {
    let (folder, root) = directory();
    let fd = root.try_clone().unwrap();
    capture(fd, &memory(), CaptureOptions::default()).unwrap();
    (folder, root)
}

fn first_pages(count: u64) -> TouchedPages {
    let mut touched = TouchedPages::new(PAGES, WorkingSetOrigin::Named);
    touched.add(PageRange::new(0, count));
    touched
}

/// The chain, and a working set of its newest snapshot.
fn with_set() -> (TempDir, Kept) {
    let (folder, root) = chain();
    let kept = Kept::new(root);
    kept.write(&first_pages(SET_PAGES));
    (folder, kept)
}

fn replay_on(threads: usize, folder: TempDir, kept: Kept) {
    let memory = kept.fresh();
    let mut set = kept.open().unwrap().unwrap();
    let options = ReplayOptions::new(threads);
    let replayed = set.replay(&FreshMemory(&memory), &options).unwrap();
    assert_eq!(replayed.data_pages + replayed.zero_pages, SET_PAGES);
    let mut byte = [0];
    memory.read(9 * PAGE_BYTES, &mut byte).unwrap();
    assert_eq!(byte, [9]);
    std::mem::forget((folder, kept));
}

// spec: EMB-01
// spec: EMB-02
#[test]
fn replay() {
    let lists = [PROCESS, syscalls::RESTORE, syscalls::REPLAY];
    under_filter("working_set::replay", &lists, with_set, |(folder, kept)| {
        replay_on(1, folder, kept);
    });
}

// spec: EMB-01
#[test]
fn replay_helpers() {
    let lists = [
        PROCESS,
        syscalls::RESTORE,
        syscalls::REPLAY,
        syscalls::CAPTURE_THREADS,
    ];
    let name = "working_set::replay_helpers";
    under_filter(name, &lists, with_set, |(folder, kept)| {
        replay_on(3, folder, kept);
    });
}

/// Brings a guest back by `method`, lets it touch pages, and makes its set anew.
fn restore_and_refresh(folder: TempDir, kept: Kept, method: MethodKind) {
    let kept = Arc::new(kept);
    let from = RestoreFrom::new(kept.image.clone()).working_set(kept.clone());
    let restored = kept.restore(method, &from.hold_back(HoldBack::new(1)));
    if let Some(replay) = restored.replay() {
        assert!(replay.wait().error.is_none());
    }
    let mut word = [0; 8];
    for page in (8..PAGES).rev() {
        restored
            .memory()
            .read(page * PAGE_BYTES, &mut word)
            .unwrap();
        assert_eq!(u64::from_le_bytes(word), page);
    }
    let refreshed = restored.refresh_working_set().unwrap().unwrap();
    let verdict = refreshed.change.verdict;
    // The page cache had mapped files before: that they were touched is not to be seen.
    assert!(
        verdict == Verdict::First || (method, verdict) == (MethodKind::Mapped, Verdict::TooFew)
    );
    drop(restored);
    std::mem::forget((folder, kept));
}

// spec: EMB-01
#[test]
fn served_and_refreshed() {
    let facts = KernelFacts::of_host(UffdOptions::default());
    if !facts.missing {
        return skip("uffd", "the kernel gives no userfaultfd");
    }
    let lists = [
        PROCESS,
        syscalls::RESTORE,
        syscalls::CAPTURE,
        syscalls::SERVE,
        syscalls::REPLAY,
        syscalls::CAPTURE_THREADS,
    ];
    let name = "working_set::served_and_refreshed";
    under_filter(name, &lists, with_set, |(folder, kept)| {
        restore_and_refresh(folder, kept, MethodKind::Served);
    });
}

// spec: EMB-01
// spec: EMB-04
#[test]
fn served_without_a_thread() {
    let facts = KernelFacts::of_host(UffdOptions::default());
    if !facts.missing {
        return skip("uffd", "the kernel gives no userfaultfd");
    }
    let lists = [
        PROCESS,
        syscalls::RESTORE,
        syscalls::SERVE,
        syscalls::REPLAY,
    ];
    let name = "working_set::served_without_a_thread";
    under_filter(name, &lists, with_set, |(folder, kept)| {
        let kept = Arc::new(kept);
        let from = RestoreFrom::new(kept.image.clone()).working_set(kept.clone());
        let from = from.serve(ServeOptions::new(0)).replay_threads(0);
        let restored = kept.restore(MethodKind::Served, &from);
        let report = restored.report.working_set.unwrap();
        assert!(report.is_done);
        assert_eq!(report.data_pages + report.zero_pages, SET_PAGES);
        drop(restored);
        std::mem::forget((folder, kept));
    });
}

// spec: EMB-01
#[test]
fn mapped_and_refreshed() {
    let lists = [
        PROCESS,
        syscalls::RESTORE,
        syscalls::CAPTURE,
        syscalls::RUN_PLAN,
        syscalls::RECORD_RESIDENT,
    ];
    let name = "working_set::mapped_and_refreshed";
    under_filter(name, &lists, with_set, |(folder, kept)| {
        restore_and_refresh(folder, kept, MethodKind::Mapped);
    });
}

// spec: EMB-01
#[test]
fn record_resident() {
    let prepare = || {
        let (folder, root) = directory();
        let backend = FsBackend::from_fd(root).unwrap();
        let path = RelPath::root().join("image").unwrap();
        let mut file = backend.create(&path).unwrap();
        file.write_all_at(0, &vec![1; 40 * 4096]).unwrap();
        (folder, backend.open(&path).unwrap(), memory())
    };
    let lists = [PROCESS, syscalls::RECORD_RESIDENT];
    let name = "working_set::record_resident";
    under_filter(name, &lists, prepare, |(folder, file, memory)| {
        assert_eq!(TouchedPages::resident_in(&*file, 40).unwrap().pages(), 40);
        assert_eq!(TouchedPages::resident(&memory).unwrap().pages(), PAGES);
        std::mem::forget((folder, file, memory));
    });
}

// spec: EMB-01
#[test]
fn record_present() {
    if let Err(error) = TouchedPages::present(&memory()) {
        return skip("uffd", &format!("PAGEMAP_SCAN: {error}"));
    }
    let lists = [PROCESS, syscalls::RECORD_PRESENT];
    let name = "working_set::record_present";
    under_filter(name, &lists, memory, |memory| {
        assert_eq!(TouchedPages::present(&memory).unwrap().pages(), PAGES);
        std::mem::forget(memory);
    });
}
