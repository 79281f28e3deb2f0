//! A small guest, and the few steps that every test takes with it.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use snapshot_format::{
    MemoryLayout, PAGE_BYTES, PageRange, SectionKind, SectionPayload, SnapshotName, SnapshotRef,
    VmName,
};
use snapshot_memory::backend::{Backend, MemBackend, RelPath};
use snapshot_memory::{DirtyBitmap, GuestMemorySource, HostRun, MemoryError, Pages, Stability};
use snapshot_store::{
    ErrorKind, NewSnapshot, OpenOptions, Selection, Store, StoreError, StoreStage, VerifyReport,
};

pub const PAGES: u64 = 8;
pub const PAGE: usize = PAGE_BYTES as usize;

/// Guest memory that is a vector.
#[derive(Debug)]
pub struct Guest {
    layout: MemoryLayout,
    bytes: Mutex<Vec<u8>>,
}

impl Guest {
    pub fn new(image: &[u8]) -> Self {
        Self {
            layout: MemoryLayout::single(image.len() as u64).unwrap(),
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

pub fn options() -> OpenOptions {
    OpenOptions::default().lock_wait(Duration::from_millis(20))
}

pub fn store() -> (MemBackend, Store) {
    let tree = MemBackend::new();
    let store = Store::create(Arc::new(tree.clone()), &options()).unwrap();
    (tree, store)
}

pub fn reopen(tree: &MemBackend) -> Store {
    let backend: Arc<dyn Backend> = Arc::new(tree.clone());
    Store::open(backend, &options()).unwrap()
}

pub fn vm(name: &str) -> VmName {
    VmName::new(name).unwrap()
}

pub fn named(machine: &str, name: &str) -> NewSnapshot {
    NewSnapshot::of(vm(machine)).name(SnapshotName::new(name).unwrap())
}

/// An image whose pages are filled with these bytes.
pub fn image(fill: &[u8]) -> Vec<u8> {
    fill.iter().flat_map(|&byte| vec![byte; PAGE]).collect()
}

/// Stages a snapshot with its memory and a device section.
pub fn staged(store: &Store, new: NewSnapshot, image: &[u8]) -> Result<StoreStage, StoreError> {
    let parent = new.parent;
    let mut stage = store.sink(new).stage()?;
    stage.section(SectionPayload::raw(
        SectionKind::CALLER,
        0,
        1,
        vec![1, 2, 3],
    ));
    let guest = Guest::new(image);
    let dirty = DirtyBitmap::all_set(guest.layout.page_count());
    let pages = match parent {
        None => Pages::Full,
        Some(base) => {
            let stored = store.image(base.id)?;
            let differing = stored.image().differing_pages(&guest, None).unwrap();
            dirty.take();
            dirty.or_from(&differing);
            Pages::Since {
                base,
                dirty: &dirty,
            }
        }
    };
    stage.memory(&guest, pages, Stability::Running)?;
    Ok(stage)
}

/// Takes a snapshot: a full one, or a diff where `new` has a parent.
pub fn take(store: &Store, new: NewSnapshot, image: &[u8]) -> Result<SnapshotRef, StoreError> {
    let published = staged(store, new, image)?.seal()?.publish()?;
    Ok(published.snapshot)
}

/// The memory of a snapshot, through a restore.
pub fn restored(store: &Store, reference: SnapshotRef) -> Result<Vec<u8>, StoreError> {
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

pub fn verify(store: &Store, selection: Selection) -> VerifyReport {
    store
        .verify(selection, &mut |_| ControlFlow::Continue(()))
        .unwrap()
}

pub fn kind<T>(result: Result<T, StoreError>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

pub fn path(text: &str) -> RelPath {
    let parts = text.split('/');
    parts.fold(RelPath::root(), |path, part| path.join(part).unwrap())
}
