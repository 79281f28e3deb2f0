//! The memory of one snapshot, put together from the data files of its chain.

use std::sync::Arc;

use snapshot_format::{
    DataFileRef, GuestPage, IndexLeaf, LEAF_PAGES, LeafRef, LeafTable, MemoryLayout, OwnerLeaf,
    PageRange,
};

use super::cache::LeafCache;
use super::data_file::{DataFile, within_leaf};
use super::data_files::{DataFiles, OpenDataFile};
use super::error::ImageError;
use crate::error::MemoryError;
use crate::source::{GuestMemorySource, HostRun};

/// The memory of a snapshot, whatever the depth of its chain.
///
/// The table of the flattened map says which data file owns a page; the index of that file says
/// where the page is and what it hashes to. Nothing is handed out before its digest is checked.
/// Reads may run from several threads.
#[derive(Debug)]
pub struct MemoryImage {
    layout: MemoryLayout,
    table: LeafTable,
    files: DataFiles,
    owners: LeafCache<OwnerLeaf>,
}

/// A run of pages with one owner, contiguous in guest memory and within one leaf.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// The pages, as image pages.
    pub pages: PageRange,
    /// The first of them as a guest page.
    pub guest: GuestPage,
    /// The data file that owns them, counted from 1; `None`: they are zero.
    pub file: Option<u16>,
}

/// How many pages of a snapshot are what.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PageCounts {
    /// Bytes stored by this snapshot.
    pub present: u64,
    /// All zero.
    pub zero: u64,
    /// As in the parent.
    pub inherited: u64,
}

impl MemoryImage {
    /// An image of `layout` with the flattened map `table`, whose owner numbers count `files`
    /// from 1.
    pub fn new(
        layout: MemoryLayout,
        table: LeafTable,
        files: Vec<DataFile>,
    ) -> Result<Self, ImageError> {
        Self::of(layout, table, DataFiles::open(files)?)
    }

    /// The same, of data files that are opened when a page or a leaf of them is wanted.
    ///
    /// So an image costs as much to open as what is read of it, whatever the depth of its chain. A
    /// file that is missing, damaged or not the one that is named fails whoever needs it first,
    /// before any byte of it is handed out, and is tried again by the next.
    pub fn on_demand(
        layout: MemoryLayout,
        table: LeafTable,
        references: Vec<DataFileRef>,
        opener: Box<dyn OpenDataFile>,
    ) -> Result<Self, ImageError> {
        Self::of(layout, table, DataFiles::on_demand(references, opener))
    }

    fn of(layout: MemoryLayout, table: LeafTable, files: DataFiles) -> Result<Self, ImageError> {
        let leaves = layout.leaves();
        let outside = |leaf: &&LeafRef| leaves.binary_search(&leaf.number).is_err();
        if let Some(leaf) = table.refs().iter().find(outside) {
            return Err(ImageError::LeafMemory { leaf: leaf.number });
        }
        Ok(Self {
            layout,
            table,
            files,
            owners: LeafCache::new(MAX_OWNER_CACHE_BYTES),
        })
    }

    /// Which guest physical addresses are memory.
    #[must_use]
    pub fn layout(&self) -> &MemoryLayout {
        &self.layout
    }

    /// What the data files of the chain are named by, oldest first.
    #[must_use]
    pub fn references(&self) -> &[DataFileRef] {
        self.files.references()
    }

    /// The data files of the chain, oldest first. Each is opened when it is reached.
    pub fn files(
        &self,
    ) -> impl DoubleEndedIterator<Item = Result<&DataFile, ImageError>> + ExactSizeIterator {
        (0..self.references().len()).map(|place| self.files.get(place))
    }

    /// Data file `number` of the chain, counted from 1 as [`Extent::file`] does.
    pub fn file(&self, number: u16) -> Result<&DataFile, ImageError> {
        match usize::from(number).checked_sub(1) {
            Some(place) if place < self.references().len() => self.files.get(place),
            _ => Err(ImageError::NoSuchFile {
                file: number,
                found: self.references().len(),
            }),
        }
    }

    #[cfg(test)]
    pub(crate) fn into_files(self) -> Vec<DataFile> {
        self.files.into_open()
    }

    /// The table of the flattened map.
    #[must_use]
    pub fn table(&self) -> &LeafTable {
        &self.table
    }

    /// The flattened map of a leaf; `None`: every page is zero.
    pub fn owner_leaf(&self, number: u32) -> Result<Option<Arc<OwnerLeaf>>, ImageError> {
        let Some(leaf) = self.table.get(number) else {
            return Ok(None);
        };
        let read = || {
            let file = self.file(leaf.file)?;
            let parsed = file.owner_leaf(leaf)?;
            let there = &file.root.layout;
            let is_same = || there.leaf_pages(number) == self.layout.leaf_pages(number);
            if *there != self.layout && !is_same() {
                return Err(ImageError::LeafMemory { leaf: number });
            }
            Ok((parsed, leaf.len as usize))
        };
        self.owners.get(number, read).map(Some)
    }

    /// Opens every data file, then reads and checks what a diff against this image reads of them:
    /// the flattened map, as far as it is kept, which is 16 KiB at most for 64 MiB of guest memory.
    pub fn warm(&self) -> Result<(), ImageError> {
        for file in self.files() {
            file?;
        }
        let mut bytes = 0;
        for leaf in self.table.refs() {
            bytes += leaf.len as usize;
            if bytes > MAX_OWNER_CACHE_BYTES {
                break;
            }
            self.owner_leaf(leaf.number)?;
        }
        Ok(())
    }

    /// Fills `out`, which is exactly as long, with the bytes of `pages`.
    pub fn read_pages(&self, pages: PageRange, out: &mut [u8]) -> Result<(), ImageError> {
        let wanted = pages.len_bytes().and_then(|len| usize::try_from(len).ok());
        if wanted != Some(out.len()) {
            return Err(ImageError::BufferLength {
                range: pages,
                found: out.len(),
            });
        }
        let mut rest = out;
        self.visit(pages, &mut |extent| {
            let len = extent
                .pages
                .len_bytes()
                .and_then(|len| usize::try_from(len).ok());
            let Some(out) = len.and_then(|len| rest.split_off_mut(..len)) else {
                return Err(ImageError::BufferLength {
                    range: pages,
                    found: 0,
                });
            };
            self.read_extent(extent, out)
        })
    }

    /// The run of one owner that `pages` begin with.
    pub fn extent(&self, pages: PageRange) -> Result<Extent, ImageError> {
        self.check_range(pages)?;
        let first = self.layout.runs(pages).next();
        let (guest, run) = first.ok_or_else(|| ImageError::OutOfRange {
            range: pages,
            page_count: self.layout.page_count(),
        })?;
        self.extent_at(guest, run.start.0, run.count)
    }

    /// Gives every run of `pages` that has one owner, in order.
    pub fn visit(
        &self,
        pages: PageRange,
        each: &mut dyn FnMut(Extent) -> Result<(), ImageError>,
    ) -> Result<(), ImageError> {
        self.check_range(pages)?;
        for (guest, run) in self.layout.runs(pages) {
            let mut done = 0;
            while done < run.count {
                let at = GuestPage(guest.0 + done);
                let extent = self.extent_at(at, run.start.0 + done, run.count - done)?;
                done += extent.pages.count;
                each(extent)?;
            }
        }
        Ok(())
    }

    fn check_range(&self, range: PageRange) -> Result<(), ImageError> {
        let page_count = self.layout.page_count();
        let end = range.start.0.checked_add(range.count);
        if end.is_some_and(|end| end <= page_count) {
            return Ok(());
        }
        Err(ImageError::OutOfRange { range, page_count })
    }

    fn extent_at(&self, at: GuestPage, image: u64, limit: u64) -> Result<Extent, ImageError> {
        let within = within_leaf(at);
        let left = limit.min((LEAF_PAGES - within) as u64);
        let number = u32::try_from(at.0 / LEAF_PAGES as u64);
        let leaf = match number {
            Ok(number) => self.owner_leaf(number)?,
            Err(_) => None,
        };
        let (owner, count) = leaf.map_or((0, left), |leaf| {
            let run = leaf.run(within, usize::try_from(left).unwrap_or(LEAF_PAGES));
            (leaf.owner(within), (run as u64).clamp(1, left))
        });
        let pages = PageRange::new(image, count);
        Ok(Extent {
            pages,
            guest: at,
            file: (owner != 0).then_some(owner),
        })
    }

    pub(super) fn read_extent(&self, extent: Extent, out: &mut [u8]) -> Result<(), ImageError> {
        let Some(owner) = extent.file else {
            out.fill(0);
            return Ok(());
        };
        let (file, leaf) = self.held(owner, extent)?;
        file.read_held(&leaf, extent.guest, out)
    }

    /// The data file that owns the pages of a run, and what it holds of their leaf: all of them.
    pub(super) fn held(
        &self,
        owner: u16,
        extent: Extent,
    ) -> Result<(&DataFile, Arc<IndexLeaf>), ImageError> {
        let file = self.file(owner)?;
        let number = u32::try_from(extent.guest.0 / LEAF_PAGES as u64);
        let leaf = match number {
            Ok(number) => file.index_leaf(number)?,
            Err(_) => None,
        };
        let leaf = leaf.ok_or_else(|| file.not_held(extent.guest))?;
        let pages = (0..extent.pages.count).map(|page| GuestPage(extent.guest.0 + page));
        for page in pages {
            if !leaf.present().contains(within_leaf(page)) {
                return Err(file.not_held(page));
            }
        }
        Ok((file, leaf))
    }
}

impl DataFile {
    /// How many pages of the snapshot that made this file are what.
    pub fn page_counts(&self) -> Result<PageCounts, ImageError> {
        let mut counts = PageCounts::default();
        for leaf in self.root.index.refs() {
            if let Some(leaf) = self.index_leaf(leaf.number)? {
                counts.present += leaf.present().count() as u64;
                counts.zero += leaf.zero().count() as u64;
            }
        }
        counts.inherited = self.root.layout.page_count() - counts.present - counts.zero;
        Ok(counts)
    }
}

/// An image is a source too: a snapshot can be taken of it.
impl GuestMemorySource for MemoryImage {
    fn layout(&self) -> &MemoryLayout {
        &self.layout
    }

    fn read_pages(&self, pages: PageRange, out: &mut [u8]) -> Result<(), MemoryError> {
        Self::read_pages(self, pages, out).map_err(|error| MemoryError::Read {
            range: pages,
            source: std::io::Error::other(error),
        })
    }

    fn host_run(&self, _pages: PageRange) -> Option<HostRun<'_>> {
        None
    }
}

/// Bytes of owner leaves that one image keeps: the leaves of 32 GiB of guest memory.
const MAX_OWNER_CACHE_BYTES: usize = 16 << 20;
