//! Whether a data file that was laid out anew holds the memory that the first one holds.
//!
//! A manifest names the root of the first map and never changes. Every later data file of the
//! snapshot is held against that map: its root when it is opened, its leaves and, where digests
//! cover other units, its bytes when it is verified.

use std::ops::ControlFlow;

use snapshot_format::page_map::PageBits;
use snapshot_format::{
    DataFileRef, Digest, GuestPage, IndexLeaf, LeafRef, LeafTable, MapRoot, PAGE_BYTES, PageIndex,
    PageRange,
};

use super::data_file::{DataFile, check_wanted, read_leaf, read_root, within_leaf};
use super::error::ImageError;
use crate::backend::ReadFile;

/// A memory map by itself, without the data file that it describes.
#[derive(Debug)]
pub struct MapFile {
    root: MapRoot,
    map: Box<dyn ReadFile>,
    name: String,
}

/// A memory map that is sound, of whatever snapshot.
#[derive(Debug)]
pub struct FoundMap {
    /// The map.
    pub map: MapFile,
    /// The digest of its root.
    pub map_root: Digest,
    /// What a placement names it by: the digest of its header and section table.
    pub frame_digest: Digest,
}

impl MapFile {
    /// Opens a map and says which it is. Its frame and its root are checked.
    pub fn look(map: Box<dyn ReadFile>, name: String) -> Result<FoundMap, ImageError> {
        let read = read_root(&*map, &name)?;
        Ok(FoundMap {
            map_root: Digest::of(&read.bytes),
            frame_digest: read.frame_digest,
            map: Self {
                root: read.root,
                map,
                name,
            },
        })
    }

    /// Opens the map that `wanted` names. Its frame and its root are checked.
    pub fn open(
        map: Box<dyn ReadFile>,
        name: String,
        wanted: &DataFileRef,
    ) -> Result<Self, ImageError> {
        let read = read_root(&*map, &name)?;
        check_wanted(&read.root, &read.bytes, wanted, &name)?;
        let root = read.root;
        Ok(Self { root, map, name })
    }

    /// The root of the map.
    #[must_use]
    pub fn root(&self) -> &MapRoot {
        &self.root
    }

    fn index_leaf(&self, leaf: &LeafRef) -> Result<IndexLeaf, ImageError> {
        let bytes = read_leaf(&*self.map, &self.name, leaf)?;
        let parsed = self.root.index_leaf(leaf, &bytes);
        parsed.map_err(|source| ImageError::Map {
            file: self.name.clone(),
            source,
        })
    }
}

impl DataFile {
    /// Refuses a data file whose root does not describe the memory of `first`, without reading a
    /// leaf.
    ///
    /// Whose memory it is, its layout and its place among the data files must be the same, and so
    /// must every leaf of the flattened map, byte for byte: both files own the same pages.
    pub fn check_same_root(&self, first: &MapFile) -> Result<(), ImageError> {
        let (new, old) = (&self.root, &first.root);
        if self.is_merged_over(first) {
            return self.check_merged_root(first);
        }
        let what = if (new.id, new.parent) != (old.id, old.parent) {
            "the snapshot or its parent"
        } else if new.layout != old.layout {
            "the memory layout"
        } else if new.file != old.file {
            "its place among the data files"
        } else if !numbers(&new.index).eq(numbers(&old.index)) {
            "which leaves it holds"
        } else if !contents(&new.owners).eq(contents(&old.owners)) {
            "which pages it owns"
        } else {
            return Ok(());
        };
        Err(other_memory(first, &self.names.map, what.to_owned()))
    }

    /// Whether this file holds, beyond what the first one does, what others of the chain held: it has
    /// the place of the first of them.
    fn is_merged_over(&self, first: &MapFile) -> bool {
        self.root.file < first.root.file
    }

    /// The same of a merged file: it may own more, and every leaf of `first` is one of its own.
    fn check_merged_root(&self, first: &MapFile) -> Result<(), ImageError> {
        let (new, old) = (&self.root, &first.root);
        let is_there = |number| new.index.get(number).is_some();
        let what = if (new.id, new.parent) != (old.id, old.parent) {
            "the snapshot or its parent"
        } else if new.layout != old.layout {
            "the memory layout"
        } else if !numbers(&old.index).all(is_there) {
            "which leaves it holds"
        } else if !self.is_merged() {
            "its place among the data files, and does not ask for readers that know merged files"
        } else {
            return Ok(());
        };
        Err(other_memory(first, &self.names.map, what.to_owned()))
    }

    /// Holds every leaf against that of `first`: the states of its pages, and its digests.
    ///
    /// Where digests cover other units, the pages are read and must have the digests of `first`.
    /// Each difference is given to `report`; `progress` is told the bytes of each step, and ends
    /// the check early by breaking.
    pub fn check_same(
        &self,
        first: &MapFile,
        report: &mut dyn FnMut(ImageError),
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) {
        if let Err(error) = self.check_same_root(first) {
            report(error);
            return;
        }
        for leaf in first.root.index.refs() {
            let read = first.index_leaf(leaf);
            let pair = read.and_then(|old| Ok((old, self.index_leaf(leaf.number)?)));
            let mut read_bytes = 0;
            let same = pair.and_then(|(old, new)| match new {
                Some(new) => self.check_same_leaf(first, &old, &new, &mut read_bytes),
                None => Ok(()),
            });
            if let Err(error) = same {
                report(error);
            }
            if progress(read_bytes + u64::from(leaf.len)).is_break() {
                return;
            }
        }
    }

    fn check_same_leaf(
        &self,
        first: &MapFile,
        old: &IndexLeaf,
        new: &IndexLeaf,
        read_bytes: &mut u64,
    ) -> Result<(), ImageError> {
        let number = old.number();
        let map = &self.names.map;
        let is_merged = self.is_merged_over(first);
        let is_same = if is_merged {
            holds(new.present(), old.present()) && holds(new.zero(), old.zero())
        } else {
            (old.present(), old.zero()) == (new.present(), new.zero())
        };
        if !is_same {
            let what = format!("which pages of leaf {number} are present or zero");
            return Err(other_memory(first, map, what));
        }
        if old.unit_pages() == new.unit_pages() && !is_merged {
            if old.digests() == new.digests() {
                return Ok(());
            }
            let what = format!("the digests of leaf {number}");
            return Err(other_memory(first, map, what));
        }
        for (page, digest) in old.units() {
            let page = GuestPage(old.first_page().0 + page as u64);
            let unit = self.root.layout.unit(page, old.unit_pages());
            let unit = unit.unwrap_or(PageRange::new(0, 0));
            let bytes = self.unit_bytes(new, unit)?;
            *read_bytes += bytes.len() as u64;
            if Digest::of(&bytes) != *digest {
                let what = format!("the bytes of guest page {:#x} on", page.0);
                return Err(other_memory(first, &self.names.data, what));
            }
        }
        Ok(())
    }

    /// The bytes of image pages of one leaf, zero where they are not present.
    fn unit_bytes(&self, leaf: &IndexLeaf, unit: PageRange) -> Result<Vec<u8>, ImageError> {
        let page_len = usize::try_from(PAGE_BYTES).unwrap_or(0);
        let mut bytes = vec![0; page_len * usize::try_from(unit.count).unwrap_or(0)];
        let place = |page| self.root.layout.guest_page(PageIndex(page));
        let held = |page: &GuestPage| leaf.present().contains(within_leaf(*page));
        let mut rest = bytes.as_mut_slice();
        let mut page = unit.start.0;
        while page < unit.end().0 {
            let first = place(page);
            // Pages that follow each other in the guest are read in one go, so that what holds
            // several of them is read once.
            let follows = |count: &u64| match (first, place(page + count)) {
                (Some(first), Some(next)) => next.0 == first.0 + count && held(&next),
                _ => false,
            };
            let run = (0..unit.end().0 - page).take_while(follows).count();
            let (now, behind) = rest.split_at_mut(run.max(1) * page_len);
            if let (Some(first), true) = (first, run > 0) {
                self.read_held(leaf, first, now)?;
            }
            page += run.max(1) as u64;
            rest = behind;
        }
        Ok(bytes)
    }
}

/// Whether every page of `part` is in `whole`.
fn holds(whole: &PageBits, part: &PageBits) -> bool {
    let words = whole.words().iter().zip(part.words());
    words.into_iter().all(|(whole, part)| part & !whole == 0)
}

fn other_memory(first: &MapFile, file: &str, what: String) -> ImageError {
    ImageError::OtherMemory {
        file: file.to_owned(),
        first: first.name.clone(),
        what,
    }
}

fn numbers(table: &LeafTable) -> impl Iterator<Item = u32> + '_ {
    table.refs().iter().map(|leaf| leaf.number)
}

/// Which leaves there are, and the digests of their bytes.
fn contents(table: &LeafTable) -> impl Iterator<Item = (u32, u32, Digest)> + '_ {
    let leaves = table.refs().iter();
    leaves.map(|leaf| (leaf.number, leaf.len, leaf.digest))
}
