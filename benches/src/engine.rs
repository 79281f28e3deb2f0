//! Ourselves: a snapshot through staging, digests, syncs and the publishing rename.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use snapshot_format::{Arch, SnapshotId, SnapshotRef, VmName};
use snapshot_memory::backend::FsBackend;
use snapshot_memory::{DirectorySink, DirtyBitmap, Pages, SnapshotSink, Stability};

use crate::error::BenchError;
use crate::guest::Guest;
use crate::scratch::Scratch;

/// A directory of snapshots, with or without one that diffs are relative to.
#[derive(Debug)]
pub(crate) struct Engine<'a> {
    scratch: &'a Scratch,
    dir: PathBuf,
    backend: Arc<FsBackend>,
    parent: Option<SnapshotRef>,
    stored: Cell<Stored>,
}

/// What a snapshot occupies on disk, in bytes of blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Stored {
    /// Memory.
    pub(crate) data_bytes: u64,
    /// Maps, digests and descriptions.
    pub(crate) metadata_bytes: u64,
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
            let (published, _) = engine.publish(guest, Pages::Full)?;
            engine.parent = Some(published);
            scratch.settle()?;
        }
        Ok(engine)
    }

    /// Takes a full snapshot of `guest` and removes it again; how long taking it took.
    pub(crate) fn full(&self, guest: &Guest) -> Result<Duration, BenchError> {
        let (published, took) = self.publish(guest, Pages::Full)?;
        self.remove(published.id)?;
        Ok(took)
    }

    /// Takes a snapshot of the pages of `dirty`, relative to the parent, and removes it again.
    pub(crate) fn diff(&self, guest: &Guest, dirty: &DirtyBitmap) -> Result<Duration, BenchError> {
        let base = self.parent.ok_or(BenchError::NoParent)?;
        let (published, took) = self.publish(guest, Pages::Since { base, dirty })?;
        self.remove(published.id)?;
        Ok(took)
    }

    /// What the last snapshot that was removed had occupied.
    pub(crate) fn stored(&self) -> Stored {
        self.stored.get()
    }

    /// From an empty stage to a snapshot that is visible and durable.
    fn publish(
        &self,
        guest: &Guest,
        pages: Pages<'_>,
    ) -> Result<(SnapshotRef, Duration), BenchError> {
        let vm: VmName = "bench".parse()?;
        let mut sink = DirectorySink::new(self.backend.clone(), vm, Arch::X86_64);
        if let Some(parent) = self.parent {
            sink = sink.with_parent(parent.id)?;
        }
        let start = Instant::now();
        let mut stage = sink.begin()?;
        stage.memory(guest, pages, Stability::Paused)?;
        let published = stage.seal()?.publish()?;
        Ok((published.snapshot, start.elapsed()))
    }

    fn remove(&self, id: SnapshotId) -> Result<(), BenchError> {
        let dir = self.dir.join(id.to_string());
        self.stored.set(Stored::of(&dir)?);
        fs::remove_dir_all(&dir).map_err(BenchError::at("remove", &dir))?;
        self.scratch.settle()
    }
}

impl Drop for Engine<'_> {
    fn drop(&mut self) {
        // The parent must not outlive its case; the scratch directory goes in the end anyway.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Stored {
    fn of(dir: &Path) -> Result<Self, BenchError> {
        let mut stored = Self::default();
        for entry in fs::read_dir(dir).map_err(BenchError::at("list", dir))? {
            let entry = entry.map_err(BenchError::at("list", dir))?;
            let metadata = entry.metadata().map_err(BenchError::at("look at", dir))?;
            let bytes = metadata.blocks() * 512;
            if entry
                .path()
                .extension()
                .is_some_and(|extension| extension == "img")
            {
                stored.data_bytes += bytes;
            } else {
                stored.metadata_bytes += bytes;
            }
        }
        Ok(stored)
    }
}

#[cfg(test)]
mod tests {
    use snapshot_format::PageRange;
    use snapshot_memory::PublishedSnapshot;

    use super::*;
    use crate::guest::{Content, PAGE, PageSet};

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
        let old = Guest::new(LEN, Content::ZeroPercent(60), 1).unwrap();
        let new = Guest::new(LEN, Content::Random, 2).unwrap();
        let engine = Engine::with_parent(&scratch, Some(&old)).unwrap();
        let base = engine.parent.unwrap();
        assert!(memory(&engine, base.id) == old.bytes());

        let dirty = PageSet::random(LEN, 10, 3);
        let bits = dirty.bitmap(LEN);
        let pages = Pages::Since { base, dirty: &bits };
        let (diff, _) = engine.publish(&new, pages).unwrap();
        let mut expected = old.bytes().to_vec();
        for offset in dirty.offsets() {
            let at = usize::try_from(offset).unwrap();
            expected[at..at + PAGE].copy_from_slice(&new.bytes()[at..at + PAGE]);
        }
        assert!(memory(&engine, diff.id) == expected);
        engine.remove(diff.id).unwrap();
        let stored = engine.stored().data_bytes;
        assert!((dirty.len_bytes()..dirty.len_bytes() + SLACK).contains(&stored));
    }

    #[test]
    fn zero_pages_take_no_room() {
        let scratch = Scratch::below(&std::env::temp_dir()).unwrap();
        let guest = Guest::new(LEN, Content::ZeroPercent(60), 1).unwrap();
        let engine = Engine::with_parent(&scratch, None).unwrap();
        engine.full(&guest).unwrap();
        let stored = engine.stored();
        let data = guest.nonzero_bytes();
        assert!((data..data + SLACK).contains(&stored.data_bytes));
        assert!(stored.metadata_bytes > 0);
    }
}
