//! Ourselves: a snapshot through staging, digests, syncs and the publishing rename.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use snapshot_format::{Arch, DataLayout, SnapshotRef, VmName};
use snapshot_memory::backend::FsBackend;
use snapshot_memory::{
    CaptureOptions, DirectorySink, DirtyBitmap, Engine as WriteEngine, MemoryStats, Pages,
    SnapshotSink, Stability,
};

use crate::error::BenchError;
use crate::guest::Guest;
use crate::scratch::{Scratch, forget_cached};

/// A directory of snapshots, with or without one that diffs are relative to.
#[derive(Debug)]
pub(crate) struct Engine<'a> {
    scratch: &'a Scratch,
    dir: PathBuf,
    backend: Arc<FsBackend>,
    parent: Option<SnapshotRef>,
    stored: Cell<Stored>,
}

/// What a snapshot occupies on disk, in bytes of blocks, and how it was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Stored {
    /// Memory.
    pub(crate) data_bytes: u64,
    /// Maps, digests and descriptions.
    pub(crate) metadata_bytes: u64,
    /// How stored pages lie in the data file.
    pub(crate) layout: Option<DataLayout>,
    /// What wrote them.
    pub(crate) engine: WriteEngine,
}

/// How a snapshot is to be taken, and how much of that is measured.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    pub(crate) options: CaptureOptions,
    pub(crate) until: Until,
    /// The parent's files leave the page cache before the time begins.
    pub(crate) cold_parent: bool,
}

impl Default for Way {
    fn default() -> Self {
        Self {
            options: CaptureOptions::default().threads(CaptureOptions::best_threads()),
            until: Until::default(),
            cold_parent: false,
        }
    }
}

/// Where the measured time ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Until {
    /// The snapshot is durable and visible.
    #[default]
    Published,
    /// All files are durable; nothing names them yet.
    Sealed,
    /// Memory and map are written, and nothing is synced.
    Written,
}

impl<'a> Engine<'a> {
    /// A new directory in `scratch`; with `parent`, a full snapshot of it is published there.
    pub(crate) fn with_parent(
        scratch: &'a Scratch,
        parent: Option<&Guest>,
    ) -> Result<Self, BenchError> {
        let dir = scratch.path().join("ours");
        fs::create_dir(&dir).map_err(BenchError::at("create", &dir))?;
        let backend = FsBackend::open(&dir).map_err(BenchError::at("open", &dir))?;
        let mut engine = Self {
            scratch,
            dir,
            backend: Arc::new(backend),
            parent: None,
            stored: Cell::default(),
        };
        if let Some(guest) = parent {
            let (published, ..) = engine.run(guest, Pages::Full, &Way::default())?;
            engine.parent = published;
            scratch.settle()?;
        }
        Ok(engine)
    }

    /// Takes a snapshot of all of `guest`, or of the pages of `dirty` relative to the parent; how
    /// long that took. What it wrote goes to the scratch directory's keeping.
    pub(crate) fn take(
        &self,
        guest: &Guest,
        dirty: Option<&DirtyBitmap>,
        way: &Way,
    ) -> Result<Duration, BenchError> {
        let pages = match dirty {
            None => Pages::Full,
            Some(dirty) => Pages::Since {
                base: self.parent.ok_or(BenchError::NoParent)?,
                dirty,
            },
        };
        let (published, stats, took) = self.run(guest, pages, way)?;
        let (data_bytes, metadata_bytes) = match published {
            None => (stats.allocated_bytes, 0),
            Some(published) => {
                let dir = self.dir.join(published.id.to_string());
                let blocks = blocks(&dir)?;
                self.scratch.keep(dir)?;
                blocks
            }
        };
        self.scratch.settle()?;
        self.stored.set(Stored {
            data_bytes,
            metadata_bytes,
            layout: stats.layout,
            engine: stats.engine,
        });
        Ok(took)
    }

    /// What the last snapshot occupied, and how it was written.
    pub(crate) fn stored(&self) -> Stored {
        self.stored.get()
    }

    fn sink(&self, way: &Way) -> Result<DirectorySink, BenchError> {
        let vm: VmName = "bench".parse()?;
        let mut sink = DirectorySink::new(self.backend.clone(), vm, Arch::X86_64)
            .with_capture(way.options.clone());
        if let Some(parent) = self.parent {
            sink = sink.with_parent(parent.id)?;
            if way.cold_parent {
                let dir = self.dir.join(parent.id.to_string());
                forget_cached(&dir).map_err(BenchError::at("look at", &dir))?;
            }
        }
        Ok(sink)
    }

    /// From an empty stage to where `way` ends; a stage that is not published goes away afterwards.
    fn run(
        &self,
        guest: &Guest,
        pages: Pages<'_>,
        way: &Way,
    ) -> Result<(Option<SnapshotRef>, MemoryStats, Duration), BenchError> {
        let mut sink = self.sink(way)?;
        let start = Instant::now();
        let mut stage = sink.begin()?;
        let stats = stage.memory(guest, pages, Stability::Paused)?;
        if way.until == Until::Written {
            return Ok((None, stats, start.elapsed()));
        }
        let sealed = stage.seal()?;
        if way.until == Until::Sealed {
            return Ok((None, stats, start.elapsed()));
        }
        let published = sealed.publish()?;
        Ok((Some(published.snapshot), stats, start.elapsed()))
    }
}

impl Drop for Engine<'_> {
    fn drop(&mut self) {
        // The parent must not outlive its case; the scratch directory goes in the end anyway.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Bytes of blocks of memory, and of all else, in the snapshot in `dir`.
fn blocks(dir: &Path) -> Result<(u64, u64), BenchError> {
    let (mut data_bytes, mut metadata_bytes) = (0, 0);
    for entry in fs::read_dir(dir).map_err(BenchError::at("list", dir))? {
        let entry = entry.map_err(BenchError::at("list", dir))?;
        let metadata = entry.metadata().map_err(BenchError::at("look at", dir))?;
        let bytes = metadata.blocks() * 512;
        if entry
            .path()
            .extension()
            .is_some_and(|extension| extension == "img")
        {
            data_bytes += bytes;
        } else {
            metadata_bytes += bytes;
        }
    }
    Ok((data_bytes, metadata_bytes))
}

#[cfg(test)]
mod tests {
    use snapshot_format::{PageRange, SnapshotId};
    use snapshot_memory::PublishedSnapshot;

    use super::*;
    use crate::guest::{Content, HostPages, PAGE};
    use crate::page_set::PageSet;

    const LEN: u64 = 4 << 20;

    /// What a file system may add of its own to keep track of scattered blocks.
    const SLACK: u64 = 64 << 10;

    /// The memory of a snapshot, read back with every digest checked.
    fn memory(engine: &Engine<'_>, id: SnapshotId) -> Vec<u8> {
        let snapshot = PublishedSnapshot::open(engine.backend.as_ref(), id).unwrap();
        let image = snapshot.image(engine.backend.as_ref()).unwrap();
        let pages = PageRange::new(0, image.layout().page_count());
        let mut out = vec![0; usize::try_from(LEN).unwrap()];
        image.read_pages(pages, &mut out).unwrap();
        out
    }

    #[test]
    fn what_is_measured_is_what_is_read_back() {
        let scratch = Scratch::below(&std::env::temp_dir()).unwrap();
        let old = Guest::new(LEN, Content::ZeroPercent(60), HostPages::Small, 1).unwrap();
        let new = Guest::new(LEN, Content::Random, HostPages::Small, 2).unwrap();
        let engine = Engine::with_parent(&scratch, Some(&old)).unwrap();
        let base = engine.parent.unwrap();
        assert!(memory(&engine, base.id) == old.bytes());

        let dirty = PageSet::random(LEN, 10, 3);
        let bits = dirty.bitmap(LEN);
        let pages = Pages::Since { base, dirty: &bits };
        let (diff, ..) = engine.run(&new, pages, &Way::default()).unwrap();
        let mut expected = old.bytes().to_vec();
        for offset in dirty.offsets() {
            let at = usize::try_from(offset).unwrap();
            expected[at..at + PAGE].copy_from_slice(&new.bytes()[at..at + PAGE]);
        }
        assert!(memory(&engine, diff.unwrap().id) == expected);
    }

    #[test]
    fn the_blocks_of_data_are_told_apart_from_the_rest() {
        let scratch = Scratch::below(&std::env::temp_dir()).unwrap();
        let guest = Guest::new(LEN, Content::Random, HostPages::Small, 2).unwrap();
        let engine = Engine::with_parent(&scratch, Some(&guest)).unwrap();
        let dirty = PageSet::random(LEN, 10, 3);
        let bits = dirty.bitmap(LEN);
        engine.take(&guest, Some(&bits), &Way::default()).unwrap();
        let stored = engine.stored();
        assert!((dirty.len_bytes()..dirty.len_bytes() + SLACK).contains(&stored.data_bytes));
        assert!(stored.metadata_bytes > 0);
    }

    #[test]
    fn a_snapshot_that_is_not_published_leaves_nothing() {
        let scratch = Scratch::below(&std::env::temp_dir()).unwrap();
        let guest = Guest::new(LEN, Content::Random, HostPages::Small, 2).unwrap();
        let engine = Engine::with_parent(&scratch, None).unwrap();
        for until in [Until::Written, Until::Sealed] {
            let way = Way {
                until,
                ..Way::default()
            };
            engine.take(&guest, None, &way).unwrap();
            assert_eq!(fs::read_dir(&engine.dir).unwrap().count(), 0);
        }
    }

    #[test]
    fn zero_pages_take_no_room() {
        let scratch = Scratch::below(&std::env::temp_dir()).unwrap();
        let guest = Guest::new(LEN, Content::ZeroPercent(60), HostPages::Small, 1).unwrap();
        let engine = Engine::with_parent(&scratch, None).unwrap();
        engine.take(&guest, None, &Way::default()).unwrap();
        let stored = engine.stored();
        let data = guest.nonzero_bytes();
        assert!((data..data + SLACK).contains(&stored.data_bytes));
    }
}
