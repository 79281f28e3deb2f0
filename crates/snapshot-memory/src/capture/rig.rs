//! Guest memory and a chain of snapshots of it in one directory, for the tests of this folder.

use std::sync::Arc;

use snapshot_format::{
    DataFileRef, Digest, GuestAddress, MemoryLayout, MemoryRegion, PAGE_BYTES, PageRange,
    SnapshotId, SnapshotRef,
};

use super::{CaptureOptions, MemoryWriter, WrittenMemory};
use crate::backend::{Backend, RelPath};
use crate::dirty::DirtyBitmap;
use crate::error::SinkError;
use crate::image::{DataFile, DataFileNames, MemoryImage};
use crate::mapping::{MappedMemory, MappingOptions};
use crate::sink::Pages;
use crate::source::{GuestMemorySource, Stability};
use crate::staged::StagedFile;

pub(super) const PAGE: usize = PAGE_BYTES as usize;

pub(super) fn layout(regions: &[(u64, u64)]) -> MemoryLayout {
    let region = |&(start, pages): &(u64, u64)| MemoryRegion {
        start: GuestAddress(start * PAGE_BYTES),
        len_bytes: pages * PAGE_BYTES,
    };
    MemoryLayout::new(regions.iter().map(region).collect()).unwrap()
}

pub(super) fn mapped(layout: &MemoryLayout) -> MappedMemory {
    MappedMemory::new(layout.clone(), MappingOptions::default()).unwrap()
}

pub(super) fn bytes_of(source: &dyn GuestMemorySource) -> Vec<u8> {
    let mut bytes = vec![0; source.layout().len_bytes() as usize];
    let all = PageRange::new(0, source.layout().page_count());
    source.read_pages(all, &mut bytes).unwrap();
    bytes
}

/// Gives every byte of some pages the same value.
pub(super) fn fill(memory: &MappedMemory, pages: PageRange, value: u8) {
    let bytes = vec![value; pages.count as usize * PAGE];
    memory.write(pages.start.0 * PAGE_BYTES, &bytes).unwrap();
}

/// A chain of snapshots in one directory.
pub(super) struct Chain {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) options: CaptureOptions,
    pub(super) written: Vec<WrittenMemory>,
}

impl Chain {
    pub(super) fn new(backend: Arc<dyn Backend>) -> Self {
        Self {
            backend,
            options: CaptureOptions::default(),
            written: Vec::new(),
        }
    }

    pub(super) fn id(n: usize) -> SnapshotId {
        SnapshotId(((n + 1) as u128).to_le_bytes())
    }

    pub(super) fn reference(n: usize) -> SnapshotRef {
        SnapshotRef {
            id: Self::id(n),
            digest: Digest::of(&[n as u8]),
        }
    }

    pub(super) fn path(n: usize, what: &str) -> RelPath {
        RelPath::root().join(&format!("{n}.{what}")).unwrap()
    }

    pub(super) fn take(
        &mut self,
        source: &dyn GuestMemorySource,
        dirty: Option<&DirtyBitmap>,
        stability: Stability,
    ) -> Result<&WrittenMemory, SinkError> {
        let n = self.written.len();
        let create = |what| StagedFile::create(&*self.backend, Self::path(n, what));
        let (mut data, mut map) = (create("img")?, create("map")?);
        let parent = n.checked_sub(1).map(|parent| self.image(parent));
        let mut writer = MemoryWriter::new(Self::id(n), stability).options(self.options.clone());
        if n > 0 {
            writer = writer.parent(Self::reference(n - 1), parent.as_ref());
        }
        let pages = dirty.map_or(Pages::Full, |dirty| Pages::Since {
            base: Self::reference(n - 1),
            dirty,
        });
        let written = writer.write(source, pages, &mut data, &mut map)?;
        data.seal()?;
        map.seal()?;
        self.written.push(written);
        Ok(&self.written[n])
    }

    pub(super) fn image(&self, n: usize) -> MemoryImage {
        let written = &self.written[n];
        let open = |data: &DataFileRef| {
            let n = data.snapshot.0[0] as usize - 1;
            let names = DataFileNames {
                map: Self::path(n, "map").to_string(),
                data: Self::path(n, "img").to_string(),
            };
            let file = |what| self.backend.open(&Self::path(n, what)).unwrap();
            DataFile::open(file("map"), file("img"), names, data).unwrap()
        };
        let files = written.dependencies.iter().map(open).collect();
        MemoryImage::new(written.layout.clone(), written.flattened.clone(), files).unwrap()
    }

    /// The memory of the newest snapshot.
    pub(super) fn newest(&self) -> MemoryImage {
        self.image(self.written.len() - 1)
    }

    pub(super) fn assert_sound(&self) {
        let last = self.newest();
        for file in last.files() {
            let file = file.unwrap();
            let mut damages = Vec::new();
            file.check(&mut |error| damages.push(error.to_string()), &mut |_| {
                std::ops::ControlFlow::Continue(())
            });
            assert_eq!(damages, [""; 0]);
        }
    }
}
