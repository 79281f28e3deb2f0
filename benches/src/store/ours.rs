//! The cold tier: snapshots of a store archived, verified and restored.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use snapshot_format::{MemoryLayout, PageRange, SnapshotId, SnapshotRef, VmName};
use snapshot_memory::backend::{Backend, FsBackend, RelPath};
use snapshot_memory::{
    DirtyBitmap, GuestMemorySource, MappedMemory, MappingOptions, Pages, Stability,
};
use snapshot_store::{NewSnapshot, OpenOptions, Store};
use snapshot_vault::{ArchiveOptions, Domain, FolderObjects, ObjectId, ScopeName, Sealing, Vault};

use super::corpus::Corpus;
use super::plan::Phase;
use super::repository::Repository;
use crate::error::BenchError;

/// A store that holds both images, the second as a diff.
pub(super) struct Source {
    store: Store,
    snapshots: [SnapshotId; 2],
}

impl Source {
    /// Takes both snapshots into a new store at `directory`.
    pub(super) fn new(corpus: &Corpus, directory: &Path) -> Result<Self, BenchError> {
        let backend = FsBackend::create(directory).map_err(BenchError::at("create", directory))?;
        let store = Store::create(Arc::new(backend), &OpenOptions::default())?;
        let len = corpus.first.len();
        let failed = |source| BenchError::Map {
            len_bytes: len,
            source,
        };
        let layout = MemoryLayout::single(len as u64);
        let layout = layout.map_err(|error| failed(std::io::Error::other(error)))?;
        let guest = MappedMemory::new(layout, MappingOptions::default()).map_err(failed)?;
        let write = |image: &[u8]| guest.write(0, image);
        let outside = |_| BenchError::Outside { offset: 0 };
        write(&corpus.first).map_err(outside)?;
        let first = take(&store, &guest, None)?;
        write(&corpus.second).map_err(outside)?;
        let dirty = DirtyBitmap::new(guest.layout().page_count());
        for page in &corpus.dirty {
            dirty.set_range(PageRange::new(*page, 1));
        }
        let second = take(&store, &guest, Some((first, &dirty)))?;
        Ok(Self {
            store,
            snapshots: [first.id, second.id],
        })
    }
}

fn take(
    store: &Store,
    guest: &MappedMemory,
    since: Option<(SnapshotRef, &DirtyBitmap)>,
) -> Result<SnapshotRef, BenchError> {
    let new = NewSnapshot::of(VmName::new("guest")?).parent(since.map(|(base, _)| base));
    let mut stage = store.sink(new).stage()?;
    let pages = since.map_or(Pages::Full, |(base, dirty)| Pages::Since { base, dirty });
    stage.memory(guest, pages, Stability::Paused)?;
    Ok(stage.seal()?.publish()?.snapshot)
}

/// A vault with one domain.
pub(super) struct OurRepository<'a> {
    source: &'a Source,
    domain: Domain,
    directory: PathBuf,
    parent: PathBuf,
    restored: PathBuf,
    second: Option<ObjectId>,
}

/// The file that is restored to.
const RESTORED: &str = "restored.img";

impl<'a> OurRepository<'a> {
    /// A new one in `parent`, which is empty.
    pub(super) fn new(source: &'a Source, parent: &Path) -> Result<Self, BenchError> {
        let directory = parent.join("repository");
        fs::create_dir(&directory).map_err(BenchError::at("create", &directory))?;
        let backend = FsBackend::open(&directory).map_err(BenchError::at("open", &directory))?;
        let objects = FolderObjects::open(Arc::new(backend))
            .map_err(|error| BenchError::at("open", &directory)(std::io::Error::other(error)))?;
        let vault = Vault::open_or_create(Arc::new(objects))?;
        let domain = vault.create_domain(&ScopeName::default_scope(), &Sealing::Open)?;
        Ok(Self {
            source,
            domain,
            restored: parent.join(RESTORED),
            parent: parent.to_owned(),
            directory,
            second: None,
        })
    }

    fn restore(&self) -> Result<Duration, BenchError> {
        let file = || BenchError::at("restore to", &self.restored);
        let start = Instant::now();
        let cold = self.second.map(|id| self.domain.open_archive(id));
        let memory = cold.transpose()?.and_then(|cold| cold.memory());
        let memory = memory.ok_or(BenchError::NoParent)?;
        let backend = FsBackend::open(&self.parent).map_err(file())?;
        let name = RelPath::root().join(RESTORED);
        let name = name.map_err(|error| file()(std::io::Error::other(error)))?;
        let mut target = backend.create(&name).map_err(file())?;
        let mut go_on = |_| ControlFlow::Continue(());
        memory.write_raw(target.as_mut(), cores(), &mut go_on)?;
        Ok(start.elapsed())
    }
}

impl Repository for OurRepository<'_> {
    fn run(&mut self, phase: Phase) -> Result<Duration, BenchError> {
        let options = ArchiveOptions::default().all_cores();
        let Source { store, snapshots } = self.source;
        let start = Instant::now();
        match phase {
            Phase::Ingest => {
                self.domain
                    .archive_snapshot(store, snapshots[0], &options)?;
            }
            Phase::Diff => {
                let archived = self
                    .domain
                    .archive_snapshot(store, snapshots[1], &options)?;
                self.second = Some(archived.id);
            }
            Phase::Verify => {
                let report = self.domain.verify(cores().saturating_sub(1))?;
                if !report.is_ok() {
                    return Err(BenchError::StateDiffers);
                }
            }
            Phase::Restore => return self.restore(),
        }
        Ok(start.elapsed())
    }

    fn directory(&self) -> &Path {
        &self.directory
    }

    fn restored(&self) -> &Path {
        &self.restored
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
