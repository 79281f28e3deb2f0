//! Archived snapshots back into a store.

mod returned;

use std::io;
use std::sync::{Mutex, PoisonError};

use snapshot_format::{GuestPage, MemoryLayout, PageRange, SnapshotId, SnapshotName};
use snapshot_memory::{
    CaptureOptions, CompareError, DirtyBitmap, GuestMemorySource, HostRun, MemoryError,
    MemoryStats, PageRun, PageSource, Pages, SourceError, Stability,
};
use snapshot_store::{Metadata, NewSnapshot, SnapshotRecord, Store, StoreError};

use crate::archives::ColdSnapshot;
use crate::domain::Domain;
use crate::error::VaultError;
use crate::id::ObjectId;
use crate::image::{ColdImage, left_in_chunk};

/// How an archived snapshot is published in a store.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ThawOptions {
    /// The name that it gets.
    pub name: ThawName,
    /// What its memory is written relative to.
    pub base: ThawBase,
    /// How memory is written.
    pub capture: CaptureOptions,
}

/// The name of a snapshot that comes back.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum ThawName {
    /// The one that it had.
    #[default]
    Kept,
    /// None.
    Dropped,
    /// Another one.
    New(SnapshotName),
}

/// What the memory of a snapshot that comes back is written relative to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum ThawBase {
    /// Its parent, where that is in the store, with the same memory layout; else nothing.
    #[default]
    Parent,
    /// Nothing: all pages are its own.
    Nothing,
    /// This snapshot of the store, which has the same memory layout.
    Snapshot(SnapshotId),
}

/// A snapshot that came back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Thawed {
    /// The snapshot in the store: the one that was archived where it was brought back, and a new one
    /// with its memory, its state and its configuration otherwise.
    pub id: SnapshotId,
    /// The snapshot that was archived.
    pub archived: SnapshotId,
    /// The archive, which stays.
    pub archive: ObjectId,
    /// What its memory is relative to.
    pub base: Option<SnapshotId>,
    /// What writing memory did; `None` without memory.
    pub stats: Option<MemoryStats>,
}

impl Domain {
    /// Publishes an archived snapshot in a store, under a new id.
    ///
    /// Every chunk is checked before a page of it is written, and the snapshot appears whole or not
    /// at all. Relative to a base, the pages that differ from the base's are written: they are
    /// compared, so that nothing rests on what the base is said to be.
    pub fn thaw(
        &self,
        archive: ObjectId,
        store: &Store,
        options: &ThawOptions,
    ) -> Result<Thawed, VaultError> {
        let span = tracing::info_span!("thaw", %archive);
        let _inside = span.enter();
        let cold = self.open_archive(archive)?;
        let manifest = cold.manifest()?;
        let source = cold.memory().map(ColdSource::new);
        let base = base(store, &cold, options)?;
        let parent = match (&base, options.base) {
            (Some(base), _) => Some(base.reference()),
            // History, where there is any.
            (None, ThawBase::Nothing) => live_parent(store, &cold)?.map(|found| found.reference()),
            (None, _) => None,
        };
        let new = NewSnapshot::of(manifest.vm.clone())
            .arch(manifest.arch)
            .branch(manifest.branch.clone())
            .parent(parent)
            .metadata(metadata(&cold, options)?)
            .config(manifest.vm_config.clone())
            .fingerprint(manifest.fingerprint.clone())
            .capture(options.capture.clone());
        let mut stage = store.sink(new).stage()?;
        for section in cold.state()?.into_iter().flat_map(|state| state.sections) {
            stage.section(section);
        }
        let mut stats = None;
        if let Some(source) = &source {
            let dirty = match &base {
                Some(base) => Some(self.changed(store, source, base)?),
                None => None,
            };
            let pages = match (&base, &dirty) {
                (Some(base), Some(dirty)) => Pages::Since {
                    base: base.reference(),
                    dirty,
                },
                _ => Pages::Full,
            };
            // Each page is read once, into a buffer that is then digested and written.
            let written = stage.memory(source, pages, Stability::Running);
            stats = Some(written.map_err(|error| source.or(error.into()))?);
        }
        let published = stage.seal()?.publish()?;
        Ok(Thawed {
            id: published.snapshot.id,
            archived: manifest.id,
            archive,
            base: base.map(|base| base.id),
            stats,
        })
    }

    /// The pages that differ from those of a snapshot of the store. Where that one is archived here,
    /// only chunks with other ids are read.
    fn changed(
        &self,
        store: &Store,
        source: &ColdSource,
        base: &SnapshotRecord,
    ) -> Result<DirtyBitmap, VaultError> {
        let among = match self.archive_by(base.reference())? {
            Some(archive) => self.open_archive(archive)?.memory(),
            None => None,
        };
        let among = among.filter(|near| near.layout() == source.image.layout());
        let among = among
            .map(|near| source.image.differing_chunks(&near))
            .transpose()?;
        let stored = store.image(base.id)?;
        let compared = stored.image().differing_pages(source, among.as_ref());
        compared.map_err(|error| match error {
            CompareError::Image(error) => StoreError::from(error).into(),
            error => source.or(VaultError::Host {
                what: "compare the memory with that of its base",
                source: Some(Box::new(error)),
            }),
        })
    }
}

impl ColdImage {
    /// The pages in chunks that are not those of an image of the same layout and domain.
    fn differing_chunks(&self, other: &Self) -> Result<DirtyBitmap, VaultError> {
        let layout = self.layout();
        let differing = DirtyBitmap::new(layout.page_count());
        for (guest, run) in layout.runs(PageRange::new(0, layout.page_count())) {
            let mut done = 0;
            while done < run.count {
                let page = GuestPage(guest.0 + done);
                let count = left_in_chunk(page).min(run.count - done);
                if self.chunk_of(page)? != other.chunk_of(page)? {
                    differing.set_range(PageRange::new(run.start.0 + done, count));
                }
                done += count;
            }
        }
        Ok(differing)
    }
}

/// The memory of an archive as a source to capture. It keeps why it could not be read.
#[derive(Debug)]
struct ColdSource {
    image: ColdImage,
    failed: Mutex<Option<VaultError>>,
}

impl ColdSource {
    fn new(image: ColdImage) -> Self {
        Self {
            image,
            failed: Mutex::default(),
        }
    }

    /// Keeps the first error; what it says.
    fn keep(&self, error: VaultError) -> String {
        let told = error.to_string();
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.get_or_insert(error);
        told
    }

    /// Why the memory could not be read, if that is what went wrong, and `error` otherwise.
    fn or(&self, error: VaultError) -> VaultError {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.take().unwrap_or(error)
    }
}

impl GuestMemorySource for ColdSource {
    fn layout(&self) -> &MemoryLayout {
        self.image.layout()
    }

    fn read_pages(&self, pages: PageRange, out: &mut [u8]) -> Result<(), MemoryError> {
        MemoryError::check_buffer(pages, out.len())?;
        let read = self.image.read(pages, out);
        read.map_err(|error| MemoryError::Read {
            range: pages,
            source: io::Error::other(self.keep(error)),
        })
    }

    fn host_run(&self, _pages: PageRange) -> Option<HostRun<'_>> {
        None
    }
}

impl PageSource for ColdSource {
    fn layout(&self) -> &MemoryLayout {
        self.image.layout()
    }

    fn run(&self, pages: PageRange) -> Result<PageRun, SourceError> {
        self.image.run(pages)
    }

    fn read_pages(&self, pages: PageRange, out: &mut [u8]) -> Result<(), SourceError> {
        let read = self.image.read(pages, out);
        read.map_err(|error| SourceError::Other(self.keep(error).into()))
    }
}

/// The parent of an archived snapshot, if it is in the store.
fn live_parent(store: &Store, cold: &ColdSnapshot) -> Result<Option<SnapshotRecord>, VaultError> {
    let Some(parent) = cold.manifest()?.parent else {
        return Ok(None);
    };
    match store.snapshot(parent.id) {
        Ok(record) => Ok(Some(record).filter(|record| record.digest == parent.digest)),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What the memory is written relative to.
fn base(
    store: &Store,
    cold: &ColdSnapshot,
    options: &ThawOptions,
) -> Result<Option<SnapshotRecord>, VaultError> {
    let Some(layout) = cold.memory().map(|memory| memory.layout().clone()) else {
        return Ok(None);
    };
    let fits = |record: &SnapshotRecord| record.has_memory && record.layout == layout;
    match options.base {
        ThawBase::Nothing => Ok(None),
        ThawBase::Parent => Ok(live_parent(store, cold)?.filter(fits)),
        ThawBase::Snapshot(id) => {
            let record = store.snapshot(id)?;
            if fits(&record) {
                Ok(Some(record))
            } else {
                Err(VaultError::OtherMemory { id })
            }
        }
    }
}

fn metadata(cold: &ColdSnapshot, options: &ThawOptions) -> Result<Metadata, VaultError> {
    let mut metadata = cold.metadata()?.unwrap_or_default();
    match &options.name {
        ThawName::Kept => {}
        ThawName::Dropped => metadata.name = None,
        ThawName::New(name) => metadata.name = Some(name.clone()),
    }
    Ok(metadata)
}

#[cfg(test)]
mod tests;
