//! Whether a flattened map leads to the memory that manifests speak of.
//!
//! A manifest names the first map of its snapshot, and its parent by the digest of that one's manifest.
//! So the first maps of a snapshot and of those it descends from say of every page what it is: the
//! newest one that has the page decides. A placement is bound by none of them.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use snapshot_format::page_map::PageBits;
use snapshot_format::{Digest, GuestPage, IndexLeaf, LEAF_PAGES, OwnerLeaf, PAGE_BYTES, PageRange};

use super::data_file::DataFile;
use super::error::ImageError;
use super::reader::MemoryImage;

#[expect(clippy::cast_possible_truncation, reason = "4096")]
const PAGE: usize = PAGE_BYTES as usize;

/// Memory that is held against first maps, the newest first.
#[derive(Debug)]
pub struct BoundCheck<'a> {
    image: &'a MemoryImage,
    /// The pages of each leaf that no map has had yet.
    open: BTreeMap<u32, PageBits>,
    /// Pages that a map has, and nobody can read there any more.
    unread: u64,
}

/// One leaf on its way through a level.
struct Leaf<'c> {
    level: &'c DataFile,
    /// What the level has of it.
    said: &'c IndexLeaf,
    /// What the flattened map says.
    owners: &'c OwnerLeaf,
    first: u64,
}

/// What is known of one page.
enum Page {
    Same,
    Differs,
    Unread,
}

impl<'a> BoundCheck<'a> {
    /// Begins to check the memory of a snapshot.
    #[must_use]
    pub fn of(image: &'a MemoryImage) -> Self {
        let layout = image.layout();
        let leaves = layout.leaves().into_iter();
        Self {
            image,
            open: leaves
                .map(|number| (number, layout.leaf_pages(number)))
                .collect(),
            unread: 0,
        }
    }

    /// Whether every page was found in a map.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.open.is_empty()
    }

    /// Holds the pages that no newer map has against `level`, a first data file.
    ///
    /// Differences are given to `report`, one for each leaf. `progress` is told the bytes that were
    /// read, and ends the check early by breaking.
    pub fn level(
        &mut self,
        level: &DataFile,
        report: &mut dyn FnMut(ImageError),
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        for place in level.root().index.refs() {
            let Some(mut open) = self.open.remove(&place.number) else {
                continue;
            };
            let mut read_bytes = u64::from(place.len);
            // What is wrong with the level is an error of the snapshot that it belongs to.
            let Ok(Some(said)) = level.index_leaf(place.number) else {
                self.unread += open.count() as u64;
                continue;
            };
            if let Err(error) = self.leaf(level, &said, &open, &mut read_bytes) {
                report(error);
            }
            for had in [said.zero(), said.present()] {
                let words = open.words_mut().iter_mut().zip(had.words());
                words.for_each(|(open, had)| *open &= !had);
            }
            if open.count() > 0 {
                self.open.insert(place.number, open);
            }
            progress(read_bytes)?;
        }
        ControlFlow::Continue(())
    }

    /// What is left: how many pages nothing but the digests of the files that hold them vouches for.
    ///
    /// Where the last level has no parent, `is_whole`, every page that it does not have is zero.
    pub fn finish(self, is_whole: bool, report: &mut dyn FnMut(ImageError)) -> u64 {
        let mut unbound = self.unread;
        for (number, open) in &self.open {
            if !is_whole {
                unbound += open.count() as u64;
                continue;
            }
            match self.owners(*number) {
                Err(error) => report(error),
                Ok(owners) => {
                    let wrong = open.pages().find(|page| owners.owner(*page) != 0);
                    if let Some(page) = wrong {
                        report(self.differs(*number, page, owners.owner(page), "nobody wrote"));
                    }
                }
            }
        }
        unbound
    }

    /// Compares the open pages of one leaf of a level.
    fn leaf(
        &mut self,
        level: &DataFile,
        said: &IndexLeaf,
        open: &PageBits,
        read_bytes: &mut u64,
    ) -> Result<(), ImageError> {
        let number = said.number();
        let owners = self.owners(number)?;
        let leaf = Leaf {
            level,
            said,
            owners: &owners,
            first: u64::from(number) * LEAF_PAGES as u64,
        };
        let mut wrong = None;
        for page in open.pages() {
            let owner = owners.owner(page);
            let is_wrong = if said.zero().contains(page) {
                owner != 0
            } else if said.present().contains(page) {
                match self.page(&leaf, page, read_bytes)? {
                    Page::Same => false,
                    Page::Differs => true,
                    Page::Unread => {
                        self.unread += 1;
                        false
                    }
                }
            } else {
                continue;
            };
            if is_wrong {
                wrong.get_or_insert((page, owner));
            }
        }
        match wrong {
            Some((page, owner)) => {
                Err(self.differs(number, page, owner, &format!("{} has", level.names().map)))
            }
            None => Ok(()),
        }
    }

    /// Compares a page that a level stores with the one that the flattened map leads to.
    fn page(&self, leaf: &Leaf<'_>, page: usize, read_bytes: &mut u64) -> Result<Page, ImageError> {
        let owner = leaf.owners.owner(page);
        if owner == 0 {
            return Ok(Page::Differs);
        }
        let held = self.image.file(owner)?;
        if held.reference() == leaf.level.reference() {
            return Ok(Page::Same);
        }
        let guest = GuestPage(leaf.first + page as u64);
        let mut bytes = [0; PAGE];
        let expected = if let Some(digest) = single(leaf.said, page) {
            digest
        } else {
            *read_bytes += PAGE_BYTES;
            if leaf.level.read_held(leaf.said, guest, &mut bytes).is_err() {
                return Ok(Page::Unread);
            }
            Digest::of(&bytes)
        };
        let there = held.index_leaf(leaf.said.number())?;
        let single_there = there.as_deref().and_then(|there| single(there, page));
        let found = if let Some(digest) = single_there {
            digest
        } else {
            let place = self.image.layout().image_page(guest);
            let place = place.ok_or_else(|| held.not_held(guest))?;
            *read_bytes += PAGE_BYTES;
            self.image
                .read_pages(PageRange::new(place.0, 1), &mut bytes)?;
            Digest::of(&bytes)
        };
        Ok(if found == expected {
            Page::Same
        } else {
            Page::Differs
        })
    }

    fn owners(&self, number: u32) -> Result<OwnerLeaf, ImageError> {
        let owners = self.image.owner_leaf(number)?;
        Ok(owners.map_or_else(
            || OwnerLeaf::uniform(number, 0),
            |owners| OwnerLeaf::clone(&owners),
        ))
    }

    fn differs(&self, number: u32, page: usize, owner: u16, who: &str) -> ImageError {
        let held = self.image.file(owner).map(|file| file.names().map.clone());
        let guest = u64::from(number) * LEAF_PAGES as u64 + page as u64;
        ImageError::OtherMemory {
            file: held.unwrap_or_else(|_| "the flattened map".to_owned()),
            first: "the manifests".to_owned(),
            what: format!("guest page {guest:#x} is not the one that {who}"),
        }
    }
}

/// The digest of a page that is under one of its own.
fn single(leaf: &IndexLeaf, page: usize) -> Option<Digest> {
    if leaf.unit_pages() != 1 {
        return None;
    }
    leaf.unit_digest(page).copied()
}
