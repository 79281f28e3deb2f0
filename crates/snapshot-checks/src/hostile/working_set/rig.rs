//! A store whose snapshots have working sets, and what bringing them back with those gives.

use std::ops::ControlFlow;
use std::sync::Arc;

use snapshot_format::{
    GuestAddress, MemoryLayout, MemoryRegion, PAGE_BYTES, PageRange, SnapshotRef, WorkingSetIndex,
    WorkingSetOrigin,
};
use snapshot_memory::backend::{Backend, MemBackend, RelPath};
use snapshot_memory::skip::skip;
use snapshot_memory::{
    DirtyBitmap, FreshMemory, GuestMemorySource, LazyMemory, LazyOptions, MappedMemory,
    MappingOptions, ReplayOptions, Replayed, ServeOptions, TouchedPages, WorkingSet,
    WorkingSetError, WorkingSetOptions, is_zero, write_working_set,
};
use snapshot_store::{ErrorKind, Selection, Store, StoreError};

use crate::bring::has_userfaultfd;
use crate::hostile::store::{Fallible, Known, options, read, read_image, take};

const PAGE: usize = 4096;

/// A full snapshot, a diff of it, and a full one of another machine, of one layout. Each has a
/// working set of the same pages.
pub(super) struct Rig {
    pub(super) tree: MemBackend,
    pub(super) held: Vec<Held>,
    /// Of what there is often, one of so many is changed.
    pub(super) every: usize,
    serves: bool,
}

/// A snapshot and its working set.
pub(super) struct Held {
    pub(super) known: Known,
    pub(super) snapshot: SnapshotRef,
    layout: MemoryLayout,
    /// Where the working set is.
    pub(super) path: RelPath,
    pub(super) bytes: Vec<u8>,
    pub(super) index: WorkingSetIndex,
}

/// What came of bringing a snapshot back with its working set, into each kind of memory.
#[derive(Default)]
pub(super) struct Came {
    /// Why it was passed over, or broken off.
    pub(super) refused: Option<ErrorKind>,
    /// Whether all of it was put in place.
    pub(super) accepted: bool,
    /// Memory that is not the snapshot's, or something else that must not be.
    pub(super) wrong: Option<String>,
}

impl Rig {
    /// Snapshots of so many pages.
    pub(super) fn new(pages: u64, every: usize) -> Fallible<Self> {
        let tree = MemBackend::new();
        let store = Store::create(Arc::new(tree.clone()), &options())?;
        let layout = layout(pages)?;
        let mut image = vec![0; usize::try_from(layout.len_bytes())?];
        let mut known = Vec::new();
        paint(&mut image, 1, |_| true);
        let base = take(&store, "one", &layout, &image, None, &mut known)?;
        let is_changed = |page: u64| page % 3 == 1;
        let dirty = DirtyBitmap::new(layout.page_count());
        for page in (0..layout.page_count()).filter(|page| is_changed(*page)) {
            dirty.set_range(PageRange::new(page, 1));
        }
        paint(&mut image, 2, is_changed);
        let since = Some((base, &dirty));
        take(&store, "one", &layout, &image, since, &mut known)?;
        paint(&mut image, 3, |_| true);
        take(&store, "two", &layout, &image, None, &mut known)?;
        let held = known
            .into_iter()
            .map(|known| Held::new(&store, &tree, known));
        let held = held.collect::<Fallible<_>>()?;
        let serves = has_userfaultfd();
        if !serves {
            skip("uffd", "working sets are brought into plain memory alone");
        }
        Ok(Self {
            tree,
            held,
            every,
            serves,
        })
    }

    /// The snapshots whose working sets are changed: one, where they are large.
    pub(super) fn changed(&self) -> &[Held] {
        match self.held.split_first_chunk::<1>() {
            Some((first, _)) if self.every > 1 => first,
            _ => &self.held,
        }
    }

    /// That what nobody changed is accepted, or the other answers mean nothing.
    pub(super) fn expect_sound(&self) -> Fallible<()> {
        let store = open(&self.tree)?;
        for held in &self.held {
            self.expect_whole(&store, held)?;
        }
        let report = store.verify(Selection::All, &mut |_| ControlFlow::Continue(()))?;
        if report.ok {
            return Ok(());
        }
        Err(format!("nothing was changed, and verify tells: {:?}", report.errors).into())
    }

    /// That a snapshot comes back with all of its working set.
    pub(super) fn expect_whole(&self, store: &Store, held: &Held) -> Result<(), String> {
        let id = held.known.id;
        match self.bring(store, held, &|| Ok(())) {
            Came {
                wrong: Some(why), ..
            } => Err(format!("the sound set of {id}: {why}")),
            Came {
                refused: Some(kind),
                ..
            } => Err(format!("the sound set of {id}: {kind:?}")),
            Came {
                accepted: false, ..
            } => Err(format!("the sound set of {id} did not come")),
            _ => Ok(()),
        }
    }

    /// Brings a snapshot back with its working set, to which `between` happens when it is open.
    pub(super) fn bring(
        &self,
        store: &Store,
        held: &Held,
        between: &dyn Fn() -> Fallible<()>,
    ) -> Came {
        let mut came = Came::default();
        if let Err(error) = self.try_bring(store, held, between, &mut came) {
            came.wrong = Some(error.to_string());
        }
        came
    }

    fn try_bring(
        &self,
        store: &Store,
        held: &Held,
        between: &dyn Fn() -> Fallible<()>,
        came: &mut Came,
    ) -> Fallible<()> {
        let (mut first, mut second) = match (held.open(store), held.open(store)) {
            (Ok(Some(first)), Ok(Some(second))) => (first, second),
            (Err(error), _) | (_, Err(error)) => {
                came.refused = Some(error.kind());
                let found = read_image(store, &held.known)?;
                return held.compare(&found, |_| true, "memory without it");
            }
            _ => return Err("the placement names no working set any more".into()),
        };
        between()?;
        if self.serves {
            held.serve(store, &mut first, came)?;
        }
        held.fill(&mut second, came)
    }
}

impl Held {
    fn new(store: &Store, tree: &MemBackend, known: Known) -> Fallible<Self> {
        let stored = store.image(known.id)?;
        let layout = stored.image().layout().clone();
        let snapshot = store.snapshot(known.id)?.reference();
        let mut touched = TouchedPages::new(layout.page_count(), WorkingSetOrigin::Trace);
        let pages = (0..layout.page_count()).rev().filter(|page| page % 7 != 3);
        touched.add_all(pages.map(|page| PageRange::new(page, 1)));
        let mut stage = store.stage_working_set(known.id)?;
        let options = WorkingSetOptions::default();
        write_working_set(stored.image(), snapshot, &touched, &options, stage.file())?;
        let name = stage.publish()?.file.ok_or("a working set has a name")?;
        let folder = RelPath::root().join("snapshots")?;
        let path = folder.join(&known.id.to_string())?.join(&name)?;
        let bytes = read(tree, &path)?;
        let index = WorkingSetIndex::read(&bytes)?;
        Ok(Self {
            known,
            snapshot,
            layout,
            path,
            bytes,
            index,
        })
    }

    /// Where the data starts in the file.
    pub(super) fn data_start(&self) -> usize {
        usize::try_from(self.index.data_offset()).unwrap_or(usize::MAX)
    }

    /// Where it ends.
    pub(super) fn data_end(&self) -> usize {
        let end = self.index.data_offset() + self.index.data_len();
        usize::try_from(end).unwrap_or(usize::MAX)
    }

    fn open(&self, store: &Store) -> Result<Option<WorkingSet>, StoreError> {
        let Some(stored) = store.working_set(self.known.id)? else {
            return Ok(None);
        };
        let (file, _lease) = stored.into_parts();
        let set = WorkingSet::from_file(file, self.snapshot, &self.layout)?;
        Ok(Some(set))
    }

    /// Into memory whose other pages come when they are read.
    fn serve(&self, store: &Store, set: &mut WorkingSet, came: &mut Came) -> Fallible<()> {
        let (image, _lease) = store.image(self.known.id)?.into_parts();
        let options = LazyOptions::new(ServeOptions::new(1));
        let memory = LazyMemory::restore(Arc::new(image), options)?;
        let replayed = set.replay(memory.server(), &ReplayOptions::new(2));
        came.ended(replayed)?;
        let found = self.read_all(&memory)?;
        self.compare(&found, |_| true, "served memory")
    }

    /// Into memory whose other pages stay zero.
    fn fill(&self, set: &mut WorkingSet, came: &mut Came) -> Fallible<()> {
        let memory = MappedMemory::new(self.layout.clone(), MappingOptions::default())?;
        let replayed = set.replay(&FreshMemory(&memory), &ReplayOptions::new(1));
        let is_whole = replayed.is_ok();
        came.ended(replayed)?;
        let found = self.read_all(&memory)?;
        let runs = &set.index().runs;
        let is_named = |page: u64| {
            let mut pages = runs.iter().map(|run| run.pages);
            pages.any(|pages| (pages.start.0..pages.end().0).contains(&page))
        };
        self.compare(&found, |page| is_whole && is_named(page), "plain memory")
    }

    fn read_all(&self, memory: &dyn GuestMemorySource) -> Fallible<Vec<u8>> {
        let mut found = vec![0; self.known.image.len()];
        memory.read_pages(PageRange::new(0, self.layout.page_count()), &mut found)?;
        Ok(found)
    }

    /// That every page is the snapshot's; one that is not `there` may be zero.
    fn compare(&self, found: &[u8], there: impl Fn(u64) -> bool, what: &str) -> Fallible<()> {
        let pages = found.chunks(PAGE).zip(self.known.image.chunks(PAGE));
        let mut wrong = (0..).zip(pages).filter(|(page, (found, expected))| {
            found != expected && (there(*page) || !is_zero(found))
        });
        match wrong.next() {
            None if found.len() == self.known.image.len() => Ok(()),
            None => Err(format!("{what} has another length").into()),
            Some((page, _)) => Err(format!("{what} is wrong from page {page} on").into()),
        }
    }
}

impl Came {
    fn ended(&mut self, replayed: Result<Replayed, WorkingSetError>) -> Fallible<()> {
        match replayed {
            Ok(_) => self.accepted = true,
            Err(WorkingSetError::Panicked) => return Err("a thread of the replay panicked".into()),
            Err(error) => self.refused = Some(StoreError::from(error).kind()),
        }
        Ok(())
    }
}

/// That verifying tells of this snapshot, and of no other.
pub(super) fn expect_told(store: &Store, held: &Held) -> Result<(), String> {
    let report = store.verify(Selection::All, &mut |_| ControlFlow::Continue(()));
    let report = report.map_err(|error| format!("verify fails: {error}"))?;
    let told: Vec<_> = report.errors.iter().map(|error| error.snapshot).collect();
    if told == [held.known.id] {
        return Ok(());
    }
    Err(format!("verify tells of {told:?}"))
}

pub(super) fn open(tree: &MemBackend) -> Fallible<Store> {
    let backend: Arc<dyn Backend> = Arc::new(tree.clone());
    Ok(Store::open(backend, &options())?)
}

/// Two regions around a hole.
fn layout(pages: u64) -> Fallible<MemoryLayout> {
    let region = |start, pages| MemoryRegion {
        start: GuestAddress(start),
        len_bytes: pages * PAGE_BYTES,
    };
    let regions = vec![region(0, 5), region(128 << 20, pages - 5)];
    Ok(MemoryLayout::new(regions)?)
}

/// Gives pages bytes that no other page has, but for each fifth, which is zero.
fn paint(image: &mut [u8], seed: u64, which: impl Fn(u64) -> bool) {
    let pages = (0..).zip(image.chunks_mut(PAGE));
    for (page, bytes) in pages.filter(|(page, _)| page % 5 != 0 && which(*page)) {
        let first = (page << 32 | seed << 16).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for (at, word) in (first..).zip(bytes.chunks_mut(8)) {
            word.copy_from_slice(&at.to_le_bytes());
        }
    }
}
