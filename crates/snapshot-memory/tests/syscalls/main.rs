//! Every feature under a filter made from its list of system calls.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![expect(clippy::unwrap_used, reason = "the tests fail by panicking")]

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use snapshot_format::{Arch, MemoryLayout, PAGE_BYTES, PageRange, VmName};
use snapshot_memory::backend::{Backend, FsBackend, LockMode, RelPath};
use snapshot_memory::skip::skip;
use snapshot_memory::syscalls::{self, PROCESS};
use snapshot_memory::testing::under_filter;
use snapshot_memory::{
    Background, CaptureOptions, DirectorySink, DirtyBitmap, DirtySource, DirtyTracker,
    EngineChoice, GuestMemorySource, KernelFacts, LazyMemory, LazyOptions, MappedMemory,
    MappingKind, MappingOptions, MemoryFacts, MemoryImage, Pages, PublishedSnapshot, RestoreCosts,
    RestoreFrom, RestorePlan, ServeOptions, SharedPages, SinkError, SnapshotSink, Stability,
    TargetFacts, TargetKind, UffdContext, UffdOptions, Verification, VmmWrites, Wanted,
    WpAsyncSource, lower_priority,
};
use tempfile::TempDir;

mod working_set;

const PAGES: u64 = 2048;

/// A directory as it comes to a jailed process: a descriptor.
fn directory() -> (TempDir, OwnedFd) {
    let folder = tempfile::tempdir().unwrap();
    let root = std::fs::File::open(folder.path()).unwrap();
    (folder, root.into())
}

fn memory() -> MappedMemory {
    let layout = MemoryLayout::single(PAGES * PAGE_BYTES).unwrap();
    let memory = MappedMemory::new(layout, MappingOptions::default()).unwrap();
    for page in 0..PAGES {
        memory
            .write(page * PAGE_BYTES, &page.to_le_bytes())
            .unwrap();
    }
    memory
}

/// A full snapshot and a diff of it, published and read again, by nothing but a descriptor.
fn capture(root: OwnedFd, memory: &MappedMemory, options: CaptureOptions) -> Result<(), SinkError> {
    let (writes, marker) = VmmWrites::new(memory.layout().clone());
    let tracker = DirtyTracker::new(memory.layout().clone(), vec![Box::new(writes)]).unwrap();
    let consumer = tracker.subscribe(None);
    let backend = Arc::new(FsBackend::from_fd(root).unwrap());
    let sink = DirectorySink::new(backend.clone(), VmName::new("vm").unwrap(), Arch::host());
    let mut sink = sink.with_capture(options);
    for round in 0..2 {
        let epoch = tracker.epoch(consumer).unwrap();
        let mut staged = sink.begin()?;
        staged.memory(memory, epoch.selection(), Stability::Paused)?;
        let published = staged.seal()?.publish().unwrap();
        epoch.commit(published.snapshot).unwrap();
        let opened = PublishedSnapshot::open(&*backend, published.snapshot.id).unwrap();
        let image = opened.image(&*backend).unwrap();
        let mut bytes = [0; 4096];
        image.read_pages(PageRange::new(7, 1), &mut bytes).unwrap();
        assert_eq!(bytes[0], 7 + round);
        memory.write(7 * PAGE_BYTES, &[8]).unwrap();
        marker.mark(PageRange::new(7, 1));
    }
    Ok(())
}

fn captures_with(test: &str, engine: EngineChoice, lists: &[&[&str]]) {
    let prepare = || (directory(), memory());
    under_filter(test, lists, prepare, |((folder, root), memory)| {
        let options = CaptureOptions::default().engine(engine).huge_pages(false);
        match capture(root, &memory, options) {
            Err(SinkError::EngineRefused { reason, .. }) => skip("direct-io", reason),
            done => done.unwrap(),
        }
        // Nothing of the preparation is undone under the filter.
        std::mem::forget(folder);
    });
}

// spec: EMB-01
// spec: EMB-02
#[test]
fn buffered() {
    captures_with(
        "buffered",
        EngineChoice::Buffered,
        &[PROCESS, syscalls::CAPTURE],
    );
}

// spec: EMB-01
#[test]
fn vectored() {
    captures_with(
        "vectored",
        EngineChoice::Vectored,
        &[PROCESS, syscalls::CAPTURE],
    );
}

// spec: EMB-01
#[test]
fn direct() {
    let lists = [PROCESS, syscalls::CAPTURE, syscalls::CAPTURE_DIRECT];
    captures_with("direct", EngineChoice::Direct, &lists);
}

// spec: EMB-01
#[test]
fn default_options() {
    let lists = [
        PROCESS,
        syscalls::CAPTURE,
        syscalls::CAPTURE_DIRECT,
        syscalls::ASK_HUGE_PAGES,
    ];
    let prepare = || (directory(), memory());
    under_filter(
        "default_options",
        &lists,
        prepare,
        |((folder, root), memory)| {
            capture(root, &memory, CaptureOptions::default()).unwrap();
            std::mem::forget(folder);
        },
    );
}

// spec: EMB-01
#[test]
fn helpers() {
    let lists = [PROCESS, syscalls::CAPTURE, syscalls::CAPTURE_THREADS];
    let prepare = || (directory(), memory());
    under_filter("helpers", &lists, prepare, |((folder, root), memory)| {
        let options = CaptureOptions::default().engine(EngineChoice::Buffered);
        let options = options.threads(2.try_into().unwrap());
        capture(root, &memory, options).unwrap();
        std::mem::forget(folder);
    });
}

// spec: EMB-01
#[test]
fn restore() {
    let prepare = || {
        let (folder, root) = directory();
        let fd = root.try_clone().unwrap();
        capture(fd, &memory(), CaptureOptions::default()).unwrap();
        (folder, root)
    };
    let lists = [PROCESS, syscalls::RESTORE, syscalls::MAPPED_MEMORY];
    under_filter("restore", &lists, prepare, |(folder, root)| {
        let backend = FsBackend::from_fd(root).unwrap();
        let entries = backend.list(&RelPath::root()).unwrap();
        for entry in &entries {
            let found = PublishedSnapshot::open(&backend, entry.name.parse().unwrap()).unwrap();
            let image = found.image(&backend).unwrap();
            let target = MappedMemory::new(image.layout().clone(), MappingOptions::default());
            let target = target.unwrap();
            let mut bytes = vec![0; 64 * 4096];
            for first in (0..PAGES).step_by(64) {
                image
                    .read_pages(PageRange::new(first, 64), &mut bytes)
                    .unwrap();
                target.write(first * PAGE_BYTES, &bytes).unwrap();
            }
        }
        assert_eq!(entries.len(), 2);
        std::mem::forget(folder);
    });
}

/// Runs the plan for what is `wanted` of the newest snapshot below `root`.
fn run_plan(root: OwnedFd, wanted: Wanted, shared: bool) {
    let backend = FsBackend::from_fd(root).unwrap();
    let newest = backend.list(&RelPath::root()).unwrap().pop().unwrap();
    let found = PublishedSnapshot::open(&backend, newest.name.parse().unwrap()).unwrap();
    let image = Arc::new(found.image(&backend).unwrap());
    let kernel = KernelFacts {
        page_bytes: PAGE_BYTES,
        ..KernelFacts::default()
    };
    let target = TargetFacts::new(TargetKind::Anonymous, kernel).shared(shared);
    let facts = MemoryFacts::of(&image, wanted).unwrap();
    let plan = RestorePlan::choose(&facts, &target, wanted, &RestoreCosts::default()).unwrap();
    let memory = MappedMemory::new(image.layout().clone(), MappingOptions::default());
    let memory = Arc::new(memory.unwrap());
    let restored = plan.run(&memory, &RestoreFrom::new(image)).unwrap();
    assert!(restored.check.is_none_or(|check| check.run().is_sound()));
    let mut byte = [0];
    memory.read(7 * PAGE_BYTES, &mut byte).unwrap();
    assert_eq!(byte, [8]);
}

// spec: EMB-01
#[test]
fn plans() {
    let prepare = || {
        let (folder, root) = directory();
        let fd = root.try_clone().unwrap();
        capture(fd, &memory(), CaptureOptions::default()).unwrap();
        (folder, root)
    };
    let lists = [PROCESS, syscalls::RESTORE, syscalls::RUN_PLAN];
    under_filter("plans", &lists, prepare, |(folder, root)| {
        for policy in Verification::ALL {
            for shared in [false, true] {
                let wanted = Wanted::default().verification(policy);
                run_plan(root.try_clone().unwrap(), wanted, shared);
            }
        }
        std::mem::forget((folder, root));
    });
}

// spec: EMB-01
#[test]
fn mapped_memory() {
    let lists = [PROCESS, syscalls::MAPPED_MEMORY];
    under_filter(
        "mapped_memory",
        &lists,
        || (),
        |()| {
            for kind in [MappingKind::Anonymous, MappingKind::Memfd] {
                let options = MappingOptions::default().kind(kind).huge_pages(true);
                let memory = MappedMemory::new(MemoryLayout::single(4 << 20).unwrap(), options);
                memory.unwrap().write(5, b"guest").unwrap();
            }
        },
    );
}

// spec: EMB-01
#[test]
fn wp_async() {
    let lists = [PROCESS, syscalls::WP_ASYNC, syscalls::CAPTURE_THREADS];
    let prepare = || Arc::new(memory());
    if let Err(error) = WpAsyncSource::new(prepare()) {
        return skip("uffd", &error.to_string());
    }
    under_filter("wp_async", &lists, prepare, |memory| {
        let mut source = WpAsyncSource::new(memory.clone()).unwrap();
        source.start().unwrap();
        memory.write(9 * PAGE_BYTES, b"guest").unwrap();
        let dirty = DirtyBitmap::new(PAGES);
        source.harvest(&dirty).unwrap();
        assert!(dirty.count() > 0);
        // A peek by several threads is what needs the list of threads.
        source
            .make_ready(std::num::NonZeroUsize::MIN.saturating_add(1))
            .unwrap();
        source.peek(&dirty).unwrap();
        source.rest();
        source.stop().unwrap();
        drop(source);
        std::mem::forget(memory);
    });
}

/// Reads every page of memory that is served from `source`, and gives some back.
fn served(image: Arc<MemoryImage>, share: bool) {
    let options = LazyOptions::new(ServeOptions::new(2).background(Background::default()));
    let memory = if share {
        LazyMemory::share(SharedPages::new(image).unwrap(), options)
    } else {
        LazyMemory::restore(image, options)
    };
    let mut memory = memory.unwrap();
    for page in 0..PAGES {
        let mut word = [0; 8];
        memory.memory().read(page * PAGE_BYTES, &mut word).unwrap();
        assert_eq!(u64::from_le_bytes(word), page);
    }
    memory.memory().discard(PageRange::new(3, 4)).unwrap();
    while memory
        .server()
        .wait_filled(Duration::from_secs(1))
        .is_none()
    {}
    assert!(memory.server_mut().finish().unwrap());
}

/// An image that a filter lets a thread open and read.
fn served_under_filter(test: &str, share: bool, lists: &[&[&str]]) {
    if let Err(error) = UffdContext::new(UffdOptions::default()) {
        return skip("uffd", &error.to_string());
    }
    let prepare = || {
        let (folder, root) = directory();
        let backend = Arc::new(FsBackend::from_fd(root).unwrap());
        let vm = VmName::new("vm").unwrap();
        let mut sink = DirectorySink::new(backend.clone(), vm, Arch::host());
        let mut staged = sink.begin().unwrap();
        staged
            .memory(&memory(), Pages::Full, Stability::Paused)
            .unwrap();
        let published = staged.seal().unwrap().publish().unwrap();
        (folder, backend, published.snapshot.id)
    };
    under_filter(test, lists, prepare, |(folder, backend, id)| {
        let opened = PublishedSnapshot::open(&*backend, id).unwrap();
        served(Arc::new(opened.image(&*backend).unwrap()), share);
        std::mem::forget((folder, backend));
    });
}

// spec: EMB-01
#[test]
fn serve() {
    let lists = [
        PROCESS,
        syscalls::RESTORE,
        syscalls::SERVE,
        syscalls::CAPTURE_THREADS,
        syscalls::PRIORITY,
    ];
    served_under_filter("serve", false, &lists);
}

// spec: EMB-01
#[test]
fn share_pages() {
    let lists = [
        PROCESS,
        syscalls::RESTORE,
        syscalls::SERVE,
        syscalls::SHARE_PAGES,
        syscalls::CAPTURE_THREADS,
        syscalls::PRIORITY,
    ];
    served_under_filter("share_pages", true, &lists);
}

// spec: EMB-01
#[test]
fn locks() {
    let lists = [PROCESS, syscalls::LOCKS];
    under_filter("locks", &lists, directory, |(folder, root)| {
        let backend = FsBackend::from_fd(root).unwrap();
        let name = RelPath::root().join("lock").unwrap();
        let lock = |mode, wait| backend.lock(&name, mode, Duration::from_millis(wait));
        let held = lock(LockMode::Shared, 0).unwrap();
        lock(LockMode::Exclusive, 5).unwrap_err();
        drop(held);
        lock(LockMode::Exclusive, 0).unwrap();
        std::mem::forget(folder);
    });
}

// spec: EMB-01
#[test]
fn priority() {
    let lists = [PROCESS, syscalls::PRIORITY];
    under_filter("priority", &lists, || (), |()| lower_priority().unwrap());
}

// spec: EMB-01
#[test]
#[should_panic(expected = "the system call fsync ")]
fn refused() {
    let calls = syscalls::CAPTURE.iter().copied();
    let but_one: Vec<&str> = calls.filter(|name| *name != "fsync").collect();
    captures_with("refused", EngineChoice::Buffered, &[PROCESS, &but_one]);
}
