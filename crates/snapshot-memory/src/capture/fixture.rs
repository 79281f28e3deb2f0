//! Guest memory and its snapshots on a backend in memory, for the tests of this folder.

use snapshot_format::{
    DataFileRef, Digest, GuestAddress, MemoryLayout, MemoryRegion, PAGE_BYTES, PageRange,
    SnapshotId, SnapshotRef,
};

use super::{CaptureOptions, LayoutChoice, MemoryWriter, WrittenMemory};
use crate::backend::{Backend, MemBackend, RelPath};
use crate::dirty::DirtyBitmap;
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

pub(super) fn path(n: usize, what: &str) -> RelPath {
    RelPath::root().join(&format!("{n}.{what}")).unwrap()
}

pub(super) fn reference(n: usize) -> SnapshotRef {
    SnapshotRef {
        id: SnapshotId([n as u8; 16]),
        digest: Digest::of(&[n as u8]),
    }
}

/// Guest memory and the snapshots that were taken of it.
pub(super) struct Guest {
    pub(super) memory: MappedMemory,
    pub(super) backend: MemBackend,
    pub(super) written: Vec<WrittenMemory>,
}

impl Guest {
    pub(super) fn new(layout: MemoryLayout) -> Self {
        Self {
            memory: MappedMemory::new(layout, MappingOptions::default()).unwrap(),
            backend: MemBackend::new(),
            written: Vec::new(),
        }
    }

    pub(super) fn fill(&self, pages: PageRange, value: u8) {
        let bytes = vec![value; pages.count as usize * PAGE];
        self.memory
            .write(pages.start.0 * PAGE_BYTES, &bytes)
            .unwrap();
    }

    pub(super) fn take(
        &mut self,
        dirty: Option<&DirtyBitmap>,
        layout: LayoutChoice,
        stability: Stability,
    ) {
        let n = self.written.len() + 1;
        let create = |what| StagedFile::create(&self.backend, path(n, what)).unwrap();
        let (mut data, mut map) = (create("img"), create("map"));
        let parent = (n > 1).then(|| self.image());
        let mut writer = MemoryWriter::new(reference(n).id, stability)
            .options(CaptureOptions::default().layout(layout));
        if let Some(parent) = &parent {
            writer = writer.parent(reference(n - 1), Some(parent));
        }
        let base = reference(n - 1);
        let pages = dirty.map_or(Pages::Full, |dirty| Pages::Since { base, dirty });
        let written = writer.write(&self.memory, pages, &mut data, &mut map);
        self.written.push(written.unwrap());
    }

    /// The memory of the newest snapshot.
    pub(super) fn image(&self) -> MemoryImage {
        let written = self.written.last().unwrap();
        let open = |data: &DataFileRef| {
            let n = usize::from(data.snapshot.0[0]);
            let names = DataFileNames {
                map: path(n, "map").to_string(),
                data: path(n, "img").to_string(),
            };
            let file = |what| self.backend.open(&path(n, what)).unwrap();
            DataFile::open(file("map"), file("img"), names, data).unwrap()
        };
        let files = written.dependencies.iter().map(open).collect();
        MemoryImage::new(written.layout.clone(), written.flattened.clone(), files).unwrap()
    }

    pub(super) fn page(&self, page: u64) -> Vec<u8> {
        let mut bytes = vec![0; PAGE];
        self.memory
            .read_pages(PageRange::new(page, 1), &mut bytes)
            .unwrap();
        bytes
    }
}
