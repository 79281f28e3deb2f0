//! Chains of snapshots in a directory, to make plans of and to bring back.

use std::sync::{Arc, Mutex};

use snapshot_format::{Arch, MemoryLayout, PAGE_BYTES, PageRange, SnapshotRef, VmName};

use crate::backend::{Backend, FsBackend, MemBackend, RelPath};
use crate::capture::{CaptureOptions, LayoutChoice};
use crate::directory::{DirectorySink, PublishedSnapshot};
use crate::dirty::DirtyBitmap;
use crate::image::MemoryImage;
use crate::mapping::{MappedMemory, MappingOptions};
use crate::sink::{Pages, SnapshotSink};
use crate::source::{GuestMemorySource, Stability};
use crate::staged::StagedFile;
use crate::working_set::{
    Change, Observed, Refreshed, TouchedPages, WorkingSet, WorkingSetError, WorkingSetKeeper,
    WorkingSetOptions, write_working_set,
};

/// A guest and its snapshots, each the parent of the next.
pub(in crate::plan) struct Chain {
    pub(in crate::plan) folder: tempfile::TempDir,
    pub(in crate::plan) memory: MappedMemory,
    backend: Arc<dyn Backend>,
    taken: Vec<SnapshotRef>,
}

impl Chain {
    /// A guest whose memory is zero.
    pub(in crate::plan) fn new(layout: MemoryLayout) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let backend = Arc::new(FsBackend::open(folder.path()).unwrap());
        let memory = MappedMemory::new(layout, MappingOptions::default()).unwrap();
        Self {
            folder,
            memory,
            backend,
            taken: Vec::new(),
        }
    }

    /// A guest of `page_count` pages from 0 on.
    pub(in crate::plan) fn of_pages(page_count: u64) -> Self {
        Self::new(MemoryLayout::single(page_count * PAGE_BYTES).unwrap())
    }

    /// Writes pages of noise that follows from `seed`.
    pub(in crate::plan) fn write(&self, pages: PageRange, seed: u64) {
        for page in pages.start.0..pages.end().0 {
            self.memory
                .write(page * PAGE_BYTES, &noise(seed, page))
                .unwrap();
        }
    }

    /// Takes a full snapshot, or the `dirty` pages, laid out as told.
    pub(in crate::plan) fn take(&mut self, dirty: Option<&[PageRange]>, layout: LayoutChoice) {
        let sink = DirectorySink::new(
            self.backend.clone(),
            VmName::new("vm").unwrap(),
            Arch::host(),
        );
        let sink = sink.with_capture(CaptureOptions::default().layout(layout));
        let mut sink = match self.taken.last() {
            Some(last) => sink.with_parent(last.id).unwrap(),
            None => sink,
        };
        let bits = DirtyBitmap::new(self.memory.layout().page_count());
        for pages in dirty.unwrap_or_default() {
            bits.set_range(*pages);
        }
        let pages = match dirty {
            None => Pages::Full,
            Some(_) => Pages::Since {
                base: *self.taken.last().unwrap(),
                dirty: &bits,
            },
        };
        let mut staged = sink.begin().unwrap();
        staged
            .memory(&self.memory, pages, Stability::Paused)
            .unwrap();
        let published = staged.seal().unwrap().publish();
        self.taken.push(published.unwrap().snapshot);
    }

    /// The last snapshot.
    pub(in crate::plan) fn last(&self) -> SnapshotRef {
        *self.taken.last().unwrap()
    }

    /// The memory of the last snapshot.
    pub(in crate::plan) fn image(&self) -> MemoryImage {
        let last = self.taken.last().unwrap();
        let snapshot = PublishedSnapshot::open(&*self.backend, last.id).unwrap();
        snapshot.image(&*self.backend).unwrap()
    }

    /// The path of the data file of snapshot `place`.
    pub(in crate::plan) fn data_path(&self, place: usize) -> std::path::PathBuf {
        let folder = self.folder.path().join(self.taken[place].id.to_string());
        folder.join("memory.img")
    }

    /// All bytes of the guest now.
    pub(in crate::plan) fn bytes(&self) -> Vec<u8> {
        bytes_of(&self.memory)
    }
}

/// All bytes of a memory.
pub(in crate::plan) fn bytes_of(source: &dyn GuestMemorySource) -> Vec<u8> {
    let pages = source.layout().page_count();
    let mut bytes = vec![0; (pages * PAGE_BYTES) as usize];
    source
        .read_pages(PageRange::new(0, pages), &mut bytes)
        .unwrap();
    bytes
}

/// A page of noise, never zero.
pub(in crate::plan) fn noise(seed: u64, page: u64) -> Vec<u8> {
    let mut state = seed << 32 | page << 1 | 1;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    });
    words.take(512).flat_map(u64::to_le_bytes).collect()
}

/// Keeps the working set of a snapshot in memory.
#[derive(Debug)]
pub(in crate::plan) struct Kept {
    image: Arc<MemoryImage>,
    snapshot: SnapshotRef,
    pub(in crate::plan) options: WorkingSetOptions,
    /// The file; `None`: there is none.
    pub(in crate::plan) file: Mutex<Option<Vec<u8>>>,
}

impl Kept {
    pub(in crate::plan) fn new(chain: &Chain, image: &Arc<MemoryImage>) -> Arc<Self> {
        Arc::new(Self {
            image: Arc::clone(image),
            snapshot: chain.last(),
            options: WorkingSetOptions::default(),
            file: Mutex::new(None),
        })
    }

    /// Makes these pages the working set.
    pub(in crate::plan) fn write(&self, touched: &TouchedPages) -> crate::WrittenWorkingSet {
        let (tree, path) = (MemBackend::new(), RelPath::root().join("set").unwrap());
        let mut file = StagedFile::create(&tree, path.clone()).unwrap();
        let image = &*self.image;
        let written = write_working_set(image, self.snapshot, touched, &self.options, &mut file);
        let written = written.unwrap();
        file.seal().unwrap();
        let file = tree.open(&path).unwrap();
        let mut bytes = vec![0; usize::try_from(written.len_bytes).unwrap()];
        file.read_exact_at(0, &mut bytes).unwrap();
        *self.file.lock().unwrap() = Some(bytes);
        written
    }
}

impl WorkingSetKeeper for Kept {
    fn open(&self) -> Result<Option<WorkingSet>, WorkingSetError> {
        let bytes = self.file.lock().unwrap().clone();
        let Some(bytes) = bytes else { return Ok(None) };
        let (tree, path) = (MemBackend::new(), RelPath::root().join("set").unwrap());
        tree.create(&path).unwrap().write_all_at(0, &bytes).unwrap();
        let file = tree.open(&path).unwrap();
        WorkingSet::open(file, "set", self.snapshot, self.image.layout()).map(Some)
    }

    fn refresh(&self, observed: &Observed) -> Result<Refreshed, WorkingSetError> {
        let set = self.open()?;
        let current = set.as_ref().map(WorkingSet::index);
        let change = Change::of(current, observed, &self.options);
        Ok(match change.pages(current, observed) {
            None => Refreshed::kept(change),
            Some(pages) => Refreshed::published(change, 1, self.write(&pages)),
        })
    }
}
