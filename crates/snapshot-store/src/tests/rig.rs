//! A small guest, and the few steps that every test takes with it.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::{
    ErrorKind, NewSnapshot, OpenOptions, Selection, Store, StoreError, StoreStage, VerifyReport,
};
use snapshot_format::{
    MemoryLayout, Operation, PageRange, SectionKind, SectionPayload, SnapshotName, SnapshotRef,
    VmName,
};
use snapshot_memory::backend::{Backend, Fault, FaultBackend, MemBackend, RelPath};
use snapshot_memory::{DirtyBitmap, GuestMemorySource, HostRun, MemoryError, Pages, Stability};

pub(super) const PAGES: u64 = 8;
pub(super) const PAGE: usize = 4096;

/// Guest memory that is a vector.
#[derive(Debug)]
pub(super) struct Guest {
    layout: MemoryLayout,
    bytes: Mutex<Vec<u8>>,
}

impl Guest {
    pub(super) fn new(image: &[u8]) -> Self {
        Self {
            layout: MemoryLayout::single(image.len() as u64).unwrap(),
            bytes: Mutex::new(image.to_vec()),
        }
    }
}

impl Guest {
    /// Memory that lies where `layout` says.
    pub(super) fn of_layout(layout: &MemoryLayout, image: &[u8]) -> Self {
        Self {
            layout: layout.clone(),
            bytes: Mutex::new(image.to_vec()),
        }
    }
}

impl GuestMemorySource for Guest {
    fn layout(&self) -> &MemoryLayout {
        &self.layout
    }

    fn read_pages(&self, pages: PageRange, out: &mut [u8]) -> Result<(), MemoryError> {
        let start = usize::try_from(pages.start.image_offset().unwrap()).unwrap();
        out.copy_from_slice(&self.bytes.lock().unwrap()[start..start + out.len()]);
        Ok(())
    }

    fn host_run(&self, _pages: PageRange) -> Option<HostRun<'_>> {
        None
    }
}

pub(super) fn options() -> OpenOptions {
    OpenOptions::default().lock_wait(Duration::from_millis(20))
}

pub(crate) fn store() -> (MemBackend, Store) {
    let tree = MemBackend::new();
    let store = Store::create(Arc::new(tree.clone()), &options()).unwrap();
    (tree, store)
}

pub(super) fn reopen(tree: &MemBackend) -> Store {
    let backend: Arc<dyn Backend> = Arc::new(tree.clone());
    Store::open(backend, &options()).unwrap()
}

pub(super) fn vm(name: &str) -> VmName {
    VmName::new(name).unwrap()
}

pub(super) fn named(machine: &str, name: &str) -> NewSnapshot {
    NewSnapshot::of(vm(machine)).name(SnapshotName::new(name).unwrap())
}

/// An image whose pages are filled with these bytes.
pub(super) fn image(fill: &[u8]) -> Vec<u8> {
    fill.iter().flat_map(|&byte| vec![byte; PAGE]).collect()
}

/// Stages a snapshot with its memory and a device section.
pub(super) fn staged(
    store: &Store,
    new: NewSnapshot,
    image: &[u8],
) -> Result<StoreStage, StoreError> {
    staged_of(store, new, image, Stability::Running)
}

/// Stages a snapshot of a guest that runs, or that is paused: then a full one has large units.
pub(super) fn staged_of(
    store: &Store,
    new: NewSnapshot,
    image: &[u8],
    stability: Stability,
) -> Result<StoreStage, StoreError> {
    let parent = new.parent;
    let mut stage = store.sink(new).stage()?;
    stage.section(SectionPayload::raw(
        SectionKind::CALLER,
        0,
        1,
        vec![1, 2, 3],
    ));
    let guest = Guest::new(image);
    let dirty = match parent {
        None => DirtyBitmap::all_set(guest.layout.page_count()),
        Some(base) => {
            let stored = store.image_to(Operation::Extend, base.id)?;
            stored.image().differing_pages(&guest, None).unwrap()
        }
    };
    let pages = parent.map_or(Pages::Full, |base| Pages::Since {
        base,
        dirty: &dirty,
    });
    stage.memory(&guest, pages, stability)?;
    Ok(stage)
}

/// Takes a snapshot: a full one, or a diff where `new` has a parent.
pub(super) fn take(
    store: &Store,
    new: NewSnapshot,
    image: &[u8],
) -> Result<SnapshotRef, StoreError> {
    let published = staged(store, new, image)?.seal()?.publish()?;
    Ok(published.snapshot)
}

/// What the pages of the snapshot of [`one`] are filled with.
pub(super) const A: [u8; 8] = [1, 0, 3, 0, 5, 6, 7, 8];

/// A store with one snapshot, `web/a` of [`A`].
pub(super) fn one() -> (MemBackend, Store, SnapshotRef) {
    let (tree, store) = store();
    let a = take(&store, named("web", "a"), &image(&A)).unwrap();
    (tree, store, a)
}

/// The names in a directory.
pub(super) fn names(tree: &MemBackend, directory: &str) -> Vec<String> {
    let entries = tree.list(&path(directory)).unwrap();
    entries.into_iter().map(|entry| entry.name).collect()
}

/// Does `work` on copies of `tree`, and lets one call of it fail after the other, for want of space,
/// by a quota and by a fault of the disk. `check` is given what came of it, what is in the store
/// for who lives on, and which call it was. What came without a failure is returned.
pub(super) fn with_each_call_failing<T>(
    tree: &MemBackend,
    work: impl Fn(&Store) -> Result<T, StoreError>,
    check: impl Fn(&Result<T, StoreError>, &MemBackend, &str),
) -> MemBackend {
    let run = |backend: &FaultBackend| {
        let store = Store::open(Arc::new(backend.clone()), &options())?;
        work(&store)
    };
    let whole = FaultBackend::new(tree);
    drop(run(&whole).unwrap());
    for (number, call) in (1..).zip(whole.calls()) {
        for fault in [
            Fault::Error(std::io::ErrorKind::StorageFull),
            Fault::Error(std::io::ErrorKind::QuotaExceeded),
            Fault::Errno(5),
        ] {
            let backend = FaultBackend::new(tree);
            backend.fail_at(number, fault);
            let done = run(&backend);
            check(&done, &backend.live(), &format!("{fault:?} of {call:?}"));
        }
    }
    whole.live()
}

/// The memory of a snapshot, through a restore.
pub(super) fn restored(store: &Store, reference: SnapshotRef) -> Result<Vec<u8>, StoreError> {
    let out = MemBackend::new();
    let path = RelPath::root().join("out").unwrap();
    let mut file = out.create(&path).unwrap();
    store.restore(reference.id, file.as_mut(), "out", &mut |_| {
        ControlFlow::Continue(())
    })?;
    let file = out.open(&path).unwrap();
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read_exact_at(0, &mut bytes).unwrap();
    Ok(bytes)
}

pub(super) fn verify(store: &Store, selection: Selection) -> VerifyReport {
    store
        .verify(selection, &mut |_| ControlFlow::Continue(()))
        .unwrap()
}

pub(super) fn kind<T>(result: Result<T, StoreError>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

/// The bytes of a file.
pub(crate) fn read(tree: &MemBackend, file: &RelPath) -> Vec<u8> {
    let file = tree.open(file).unwrap();
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read_exact_at(0, &mut bytes).unwrap();
    bytes
}

pub(crate) fn path(text: &str) -> RelPath {
    let parts = text.split('/');
    parts.fold(RelPath::root(), |path, part| path.join(part).unwrap())
}
