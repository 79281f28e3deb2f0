//! A source of pages that says what each of them is, and files to write to, for the tests of this
//! folder.

use snapshot_format::{Digest, MemoryLayout, PAGE_BYTES, PageRange, SnapshotId, SnapshotRef};

use super::{
    TouchedPages, WorkingSet, WorkingSetError, WorkingSetOptions, WrittenWorkingSet,
    write_working_set,
};
use crate::backend::{Backend, RelPath};
use crate::restore::{PageRun, PageSource, SourceError};
use crate::staged::StagedFile;

pub(super) const SNAPSHOT: SnapshotRef = SnapshotRef {
    id: SnapshotId([9; 16]),
    digest: Digest([5; 32]),
};

/// An image in which every page but each fifth says its own number.
#[derive(Debug)]
pub(super) struct Numbered(MemoryLayout);

impl Numbered {
    pub(super) fn new(pages: u64) -> Self {
        Self(MemoryLayout::single(pages * PAGE_BYTES).unwrap())
    }

    pub(super) fn is_zero(page: u64) -> bool {
        page.is_multiple_of(5)
    }

    pub(super) fn page(page: u64) -> Vec<u8> {
        let word = if Self::is_zero(page) { 0 } else { page + 1 };
        word.to_le_bytes().repeat(512)
    }

    pub(super) fn bytes(pages: PageRange) -> Vec<u8> {
        (pages.start.0..pages.end().0)
            .flat_map(Self::page)
            .collect()
    }
}

impl PageSource for Numbered {
    fn layout(&self) -> &MemoryLayout {
        &self.0
    }

    fn run(&self, pages: PageRange) -> Result<PageRun, SourceError> {
        let is_zero = Self::is_zero(pages.start.0);
        let alike =
            (pages.start.0..pages.end().0).take_while(|page| Self::is_zero(*page) == is_zero);
        Ok(PageRun {
            count: alike.count() as u64,
            is_zero,
        })
    }

    fn read_pages(&self, pages: PageRange, out: &mut [u8]) -> Result<(), SourceError> {
        out.copy_from_slice(&Self::bytes(pages));
        Ok(())
    }
}

pub(super) fn path() -> RelPath {
    RelPath::root().join("working-set.2").unwrap()
}

pub(super) fn write(
    backend: &dyn Backend,
    source: &Numbered,
    touched: &TouchedPages,
    options: WorkingSetOptions,
) -> Result<WrittenWorkingSet, WorkingSetError> {
    let mut file = StagedFile::create(backend, path()).unwrap();
    let written = write_working_set(source, SNAPSHOT, touched, &options, &mut file)?;
    file.seal().unwrap();
    Ok(written)
}

pub(super) fn open(
    backend: &dyn Backend,
    source: &Numbered,
) -> Result<WorkingSet, WorkingSetError> {
    let file = backend.open(&path()).unwrap();
    WorkingSet::open(file, path().as_str(), SNAPSHOT, source.layout())
}
