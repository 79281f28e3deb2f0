//! The snapshots that are restored: fulls of several sizes, and a chain.

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use snapshot_format::{SnapshotId, SnapshotRef, VmName};
use snapshot_memory::backend::FsBackend;
use snapshot_memory::{CaptureControl, CaptureOptions, LayoutChoice, Pages, Stability};
use snapshot_store::{NewSnapshot, OpenOptions, Store};

use super::synthetic::{Synthetic, layout};
use crate::error::BenchError;
use crate::page_set::PageSet;

/// Part of the pages that each level of a chain has anew.
const LEVEL_PERCENT: u64 = 1;

/// Bytes that are read at a time to warm a file.
const WARM_BYTES: usize = 4 << 20;

/// A store with one chain in it: a full, and diffs of random pages.
#[derive(Debug)]
pub(crate) struct Chain {
    dir: PathBuf,
    store: Store,
    mem_bytes: u64,
    ids: Vec<SnapshotId>,
}

/// One snapshot, and the same memory as a plain file for the peers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Subject {
    pub(crate) store: PathBuf,
    pub(crate) id: SnapshotId,
    pub(crate) raw: PathBuf,
    pub(crate) mem_bytes: u64,
    pub(crate) depth: usize,
}

impl Chain {
    /// Writes a chain of `depth` snapshots of `mem_bytes` bytes each into the new directory `dir`.
    pub(crate) fn build(dir: &Path, mem_bytes: u64, depth: usize) -> Result<Self, BenchError> {
        let backend = FsBackend::create(dir).map_err(BenchError::at("create", dir))?;
        let store = Store::create(Arc::new(backend), &OpenOptions::default())?;
        let mut chain = Self {
            dir: dir.to_owned(),
            store,
            mem_bytes,
            ids: Vec::with_capacity(depth),
        };
        let mut parent = None;
        for level in 0..depth as u64 {
            let published = chain.add(level, parent)?;
            chain.ids.push(published.id);
            parent = Some(published);
        }
        Ok(chain)
    }

    fn add(&self, level: u64, parent: Option<SnapshotRef>) -> Result<SnapshotRef, BenchError> {
        let vm: VmName = "bench".parse()?;
        // Sparse, a full is a raw image too, which the peers map. A diff is laid out as it is best.
        let layout_choice = match parent {
            None => LayoutChoice::Sparse,
            Some(_) => LayoutChoice::Auto,
        };
        let capture = CaptureOptions::default()
            .threads(CaptureOptions::best_threads())
            .layout(layout_choice);
        let new = NewSnapshot::of(vm).parent(parent).capture(capture);
        let memory = Synthetic::new(layout(self.mem_bytes)?, level);
        let dirty = PageSet::random(self.mem_bytes, LEVEL_PERCENT, 0xc4a1 + level);
        let dirty = dirty.bitmap(self.mem_bytes);
        let pages = match parent {
            None => Pages::Full,
            Some(base) => Pages::Since {
                base,
                dirty: &dirty,
            },
        };
        let mut stage = self.store.sink(new).stage()?;
        stage.memory(&memory, pages, Stability::Paused)?;
        Ok(stage.seal()?.publish()?.snapshot)
    }

    /// The snapshot below which there are `depth - 1` others.
    pub(crate) fn subject(&self, depth: usize) -> Result<Subject, BenchError> {
        let place = NonZeroUsize::new(depth).ok_or(BenchError::NoParent)?;
        let id = *self.ids.get(place.get() - 1).ok_or(BenchError::NoParent)?;
        let raw = if depth == 1 {
            let data = ["snapshots", &id.to_string(), "memory.img"];
            data.iter()
                .fold(self.dir.clone(), |path, part| path.join(part))
        } else {
            self.merged(id)?
        };
        Ok(Subject {
            store: self.dir.clone(),
            id,
            raw,
            mem_bytes: self.mem_bytes,
            depth,
        })
    }

    /// The merged image of a snapshot: what clones map, and peers as well.
    fn merged(&self, id: SnapshotId) -> Result<PathBuf, BenchError> {
        self.store.warm(id, &CaptureControl::default())?;
        Ok(self.dir.join("cache").join(format!("{id}.img")))
    }
}

/// Reads a file, or all files below a folder, so that the page cache has them.
pub(super) fn warm(path: &Path) -> Result<(), BenchError> {
    read_all(path, &mut vec![0; WARM_BYTES]).map_err(BenchError::at("read", path))
}

fn read_all(path: &Path, buffer: &mut [u8]) -> std::io::Result<()> {
    use std::os::unix::fs::FileExt;

    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            read_all(&entry?.path(), buffer)?;
        }
        return Ok(());
    }
    let file = fs::File::open(path)?;
    let mut offset = 0;
    loop {
        match file.read_at(buffer, offset)? {
            0 => return Ok(()),
            read => offset += read as u64,
        }
    }
}
