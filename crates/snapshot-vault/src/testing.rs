//! A small guest and a domain in memory, for the tests of this crate.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use snapshot_format::{MemoryLayout, PageRange, SnapshotId};
use snapshot_memory::{DirtyBitmap, PageRun, PageSource, SourceError, is_zero};

use crate::{
    ArchiveFile, ArchiveInput, ArchiveOptions, Archived, ArchivedKind, Domain, DomainId,
    ListedObject, MemoryObjects, ObjectError, ObjectId, ObjectName, Objects, Relative, RootKey,
    ScopeName, VaultError,
};

pub(crate) const PAGE: usize = 4096;

/// Guest memory that is a vector.
#[derive(Debug)]
pub(crate) struct Guest {
    layout: MemoryLayout,
    bytes: Mutex<Vec<u8>>,
}

impl Guest {
    /// Memory of `pages` pages at 0, in which page n holds noise made of `seed` and n, but for every
    /// fifth, which is zero.
    pub(crate) fn new(pages: usize, seed: u64) -> Self {
        let layout = MemoryLayout::single((pages * PAGE) as u64).unwrap();
        Self::of_layout(layout, seed)
    }

    pub(crate) fn of_layout(layout: MemoryLayout, seed: u64) -> Self {
        let pages = layout.page_count() as usize;
        let guest = Self {
            bytes: Mutex::new(vec![0; pages * PAGE]),
            layout,
        };
        for page in (0..pages).filter(|page| page % 5 != 4) {
            guest.write(page, seed * 1_000_003 + page as u64);
        }
        guest
    }

    /// Fills a page with noise made of `seed`; with zeros for 0.
    pub(crate) fn write(&self, page: usize, seed: u64) {
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = seed;
        for word in bytes[page * PAGE..][..PAGE].chunks_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
    }

    pub(crate) fn image(&self) -> Vec<u8> {
        self.bytes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl PageSource for Guest {
    fn layout(&self) -> &MemoryLayout {
        &self.layout
    }

    fn run(&self, pages: PageRange) -> Result<PageRun, SourceError> {
        let mut page = vec![0; PAGE];
        self.read_pages(PageRange::new(pages.start.0, 1), &mut page)?;
        Ok(PageRun {
            count: 1,
            is_zero: is_zero(&page),
        })
    }

    fn read_pages(&self, pages: PageRange, out: &mut [u8]) -> Result<(), SourceError> {
        let start = pages.start.0 as usize * PAGE;
        out.copy_from_slice(&self.image()[start..start + out.len()]);
        Ok(())
    }
}

/// A domain on these objects; two of the same objects are the same.
pub(crate) fn domain_on(objects: Arc<dyn Objects>) -> Domain {
    let scope = ScopeName::default_scope();
    Domain::new(objects, DomainId([1; 16]), scope, &RootKey([2; 32]), false)
}

pub(crate) fn domain(objects: &MemoryObjects) -> Domain {
    domain_on(Arc::new(objects.clone()))
}

/// Archives memory as the snapshot `number`.
pub(crate) fn archive(
    domain: &Domain,
    number: u8,
    guest: &Guest,
    near: Option<(ObjectId, &[usize])>,
) -> Result<Archived, VaultError> {
    let manifest = ArchiveFile {
        kind: ArchivedKind::MANIFEST,
        index: 0,
        bytes: &[number; 700],
    };
    let dirty = DirtyBitmap::new(guest.layout().page_count());
    for page in near.iter().flat_map(|(_, pages)| *pages) {
        dirty.set_range(PageRange::new(*page as u64, 1));
    }
    let input = ArchiveInput {
        snapshot: SnapshotId([number; 16]),
        files: &[manifest],
        memory: Some(guest),
        relative: near.map(|(archive, _)| Relative {
            archive,
            changed: &dirty,
        }),
    };
    domain.archive(&input, &ArchiveOptions::default())
}

/// All memory of an archive.
pub(crate) fn restored(domain: &Domain, id: ObjectId) -> Result<Vec<u8>, VaultError> {
    let cold = domain.open_archive(id)?.memory().unwrap();
    let pages = cold.layout().page_count();
    let mut bytes = vec![0xEE; pages as usize * PAGE];
    match cold.read_pages(PageRange::new(0, pages), &mut bytes) {
        Ok(()) => Ok(bytes),
        Err(SourceError::Other(error)) => Err(*error.downcast().unwrap()),
        Err(error) => Err(VaultError::memory(error)),
    }
}

/// The same objects, and something that is done to them before a certain put or delete: what others
/// may do while this one is frozen.
pub(crate) struct Before {
    objects: MemoryObjects,
    number: usize,
    act: Box<dyn Fn(&MemoryObjects) + Send + Sync>,
    changes: AtomicUsize,
}

impl Before {
    pub(crate) fn new(
        objects: &MemoryObjects,
        number: usize,
        act: impl Fn(&MemoryObjects) + Send + Sync + 'static,
    ) -> Self {
        Self {
            objects: objects.clone(),
            number,
            act: Box::new(act),
            changes: AtomicUsize::new(0),
        }
    }

    fn count(&self) {
        if self.changes.fetch_add(1, Ordering::Relaxed) + 1 == self.number {
            (self.act)(&self.objects);
        }
    }
}

impl fmt::Debug for Before {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Before({})", self.number)
    }
}

impl Objects for Before {
    fn put(&self, name: &ObjectName, bytes: &[u8]) -> Result<(), ObjectError> {
        self.count();
        self.objects.put(name, bytes)
    }

    fn get(&self, name: &ObjectName, offset: u64, out: &mut [u8]) -> Result<usize, ObjectError> {
        self.objects.get(name, offset, out)
    }

    fn list(&self, prefix: &ObjectName) -> Result<Vec<ListedObject>, ObjectError> {
        self.objects.list(prefix)
    }

    fn delete(&self, name: &ObjectName) -> Result<(), ObjectError> {
        self.count();
        self.objects.delete(name)
    }
}
