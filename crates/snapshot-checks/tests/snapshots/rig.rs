//! A machine that is about to be snapshotted, and what must be true when that fails.

use std::sync::Arc;

use snapshot_checks::Way;
use snapshot_format::{Arch, PageRange, SnapshotId};
use snapshot_memory::backend::{Backend, FaultBackend, MemBackend, RelPath};
use snapshot_memory::{
    CaptureOptions, DirectorySink, MemoryStats, Published, PublishedSnapshot, Stability,
};

use crate::machine::{Failure, Machine, two_threads, vm};

/// Pages of guests: one that is written by few calls, and one that fills several buffers.
pub(crate) const SMALL: [u64; 2] = [37, 21];
pub(crate) const LARGE: [u64; 2] = [1100, 100];

/// Which snapshot is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// All of a guest that is stopped.
    Full,
    /// What a guest wrote that is stopped.
    PausedDiff,
    /// What a guest wrote that goes on.
    RunningDiff,
}

/// A machine, and the directory that its next snapshot goes to.
#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) machine: Machine,
    /// The directory before the snapshot.
    pub(crate) before: MemBackend,
    parent: Option<SnapshotId>,
    kind: Kind,
    options: CaptureOptions,
    dirty: Vec<PageRange>,
    pub(crate) name: String,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Full, Self::PausedDiff, Self::RunningDiff];

    fn stability(self) -> Stability {
        match self {
            Self::Full | Self::PausedDiff => Stability::Paused,
            Self::RunningDiff => Stability::Running,
        }
    }
}

impl Rig {
    /// Every kind of snapshot in every way.
    pub(crate) fn all(pages: [u64; 2]) -> impl Iterator<Item = Self> {
        let kinds = Kind::ALL.into_iter();
        kinds.flat_map(move |kind| Way::ALL.map(|way| Self::new(pages, kind, way)))
    }

    fn new(pages: [u64; 2], kind: Kind, way: Way) -> Self {
        let machine = Machine::new(pages);
        let before = MemBackend::new();
        let rig = Self {
            dirty: machine.dirty(),
            machine,
            before,
            parent: None,
            kind: Kind::Full,
            options: two_threads(way),
            name: format!("{kind:?}, {way}, {pages:?} pages"),
        };
        if kind == Kind::Full {
            return rig;
        }
        let backend = FaultBackend::new(&rig.before);
        let epoch = rig.machine.epoch();
        let mut sink = rig.sink(&backend, rig.options.clone());
        let (published, _) = rig
            .machine
            .take(&mut sink, &epoch, Stability::Paused)
            .unwrap();
        epoch.commit(published.snapshot).unwrap();
        rig.machine.run(2, |page| page % 3 == 0 || page > 600);
        Self {
            before: backend.live(),
            parent: Some(published.snapshot.id),
            kind,
            dirty: rig.machine.dirty(),
            ..rig
        }
    }

    pub(crate) fn options(&self) -> CaptureOptions {
        self.options.clone()
    }

    fn sink(&self, backend: &FaultBackend, options: CaptureOptions) -> DirectorySink {
        let sink = DirectorySink::new(Arc::new(backend.clone()), vm(), Arch::host());
        let sink = sink.with_capture(options);
        match self.parent {
            None => sink,
            Some(parent) => sink.with_parent(parent).unwrap(),
        }
    }

    /// Takes the snapshot on a copy of the directory. The epoch is not committed, so that it can be
    /// taken again.
    pub(crate) fn attempt(
        &self,
        backend: &FaultBackend,
        options: CaptureOptions,
    ) -> Result<(Published, MemoryStats), Failure> {
        let mut sink = self.sink(backend, options);
        let epoch = self.machine.epoch();
        let taken = self.machine.take(&mut sink, &epoch, self.kind.stability());
        drop(epoch);
        self.assert_dirty_bits_are_back(&taken);
        if let Ok((published, _)) = &taken {
            self.assert_whole(backend, published.snapshot.id);
        }
        taken
    }

    fn assert_dirty_bits_are_back<T: std::fmt::Debug>(&self, taken: &T) {
        assert_eq!(self.machine.dirty(), self.dirty, "{}: {taken:?}", self.name);
        assert_eq!(self.machine.epoch().base().map(|base| base.id), self.parent);
    }

    /// That a snapshot holds what the machine does.
    pub(crate) fn assert_whole(&self, backend: &FaultBackend, id: SnapshotId) {
        let published = PublishedSnapshot::open(backend, id).unwrap();
        let image = published.image(backend).unwrap();
        let mut found = vec![0; self.machine.memory.len_bytes()];
        let pages = PageRange::new(0, image.layout().page_count());
        image.read_pages(pages, &mut found).unwrap();
        assert!(
            found == self.machine.image(),
            "{}: another image",
            self.name
        );
    }

    /// That the directory holds what it held before the attempt, and then takes the snapshot.
    pub(crate) fn assert_untouched(&self, backend: &FaultBackend, how: &str) {
        let live = backend.live();
        assert_eq!(files(&live), files(&self.before), "{}: {how}", self.name);
        let again = self.attempt(&FaultBackend::new(&live), self.options());
        assert!(again.is_ok(), "{}: {how}, again: {again:?}", self.name);
    }
}

/// Every file of a directory with its length.
fn files(backend: &MemBackend) -> Vec<(String, u64)> {
    let mut files = Vec::new();
    let mut open = vec![RelPath::root()];
    while let Some(dir) = open.pop() {
        for entry in backend.list(&dir).unwrap() {
            let path = dir.join(&entry.name).unwrap();
            let len = backend.metadata(&path).unwrap().len_bytes;
            files.push((path.to_string(), len));
            if entry.kind == snapshot_memory::backend::EntryKind::Directory {
                open.push(path);
            }
        }
    }
    files.sort();
    files
}
