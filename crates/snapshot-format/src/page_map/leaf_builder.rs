//! Making an index leaf.

use crate::address::PAGE_BYTES;
use crate::id::Digest;
use crate::page_map::frame_table::{FrameEntry, FrameTable, frame_count, pages_of};
use crate::page_map::index_leaf::unit_heads;
use crate::page_map::{IndexLeaf, MAX_UNIT_PAGES, PageBits};

/// Parts that make no leaf: a fault of the writer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LeafError {
    /// A unit that is no power of two up to 16.
    #[error("a digest unit of {unit_pages} pages, a power of two up to 16 is expected")]
    Unit {
        /// What was asked for.
        unit_pages: u16,
    },
    /// Not one digest for each unit that holds a present page.
    #[error("leaf {number}: {found} digests for {expected} units with a present page")]
    Digests {
        /// The leaf.
        number: u32,
        /// How many digests are needed.
        expected: usize,
        /// How many were given.
        found: usize,
    },
    /// A page that is both present and zero.
    #[error("leaf {number}: a page is both present and zero")]
    Overlap {
        /// The leaf.
        number: u32,
    },
    /// Frames that are not those of the present pages: one for each 16, each of a length that it
    /// may have, in a leaf whose units have one page.
    #[error("leaf {number}: {found} frames do not hold its {present} present pages")]
    Frames {
        /// The leaf.
        number: u32,
        /// How many pages are present.
        present: usize,
        /// How many frames were given.
        found: usize,
    },
    /// A data offset that is no multiple of the page.
    #[error("leaf {number}: data offset {data_offset:#x} is no multiple of 4096")]
    DataOffset {
        /// The leaf.
        number: u32,
        /// What was given.
        data_offset: u64,
    },
}

/// Collects what a data file holds of one leaf.
#[derive(Clone, Debug)]
pub struct IndexLeafBuilder {
    number: u32,
    unit_pages: u16,
    present: PageBits,
    zero: PageBits,
    digests: Vec<Digest>,
}

impl IndexLeafBuilder {
    /// A leaf whose pages are all inherited, with digest units of so many pages.
    pub fn new(number: u32, unit_pages: u16) -> Result<Self, LeafError> {
        if !unit_pages.is_power_of_two() || unit_pages > MAX_UNIT_PAGES {
            return Err(LeafError::Unit { unit_pages });
        }
        Ok(Self {
            number,
            unit_pages,
            present: PageBits::new(),
            zero: PageBits::new(),
            digests: Vec::new(),
        })
    }

    /// The pages whose bytes are in the data file.
    pub const fn present(&mut self) -> &mut PageBits {
        &mut self.present
    }

    /// The pages that are zero.
    pub const fn zero(&mut self) -> &mut PageBits {
        &mut self.zero
    }

    /// Adds the digest of the next unit that holds a present page, by ascending page.
    pub fn digest(&mut self, digest: Digest) {
        self.digests.push(digest);
    }

    /// Whether every page is inherited, so that the leaf need not be written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.present.count() == 0 && self.zero.count() == 0
    }

    /// The leaf. `data_offset` is where its present pages start in packed data; 0 in sparse data.
    pub fn finish(self, data_offset: u64) -> Result<IndexLeaf, LeafError> {
        if !data_offset.is_multiple_of(PAGE_BYTES) {
            return Err(LeafError::DataOffset {
                number: self.number,
                data_offset,
            });
        }
        self.assemble(data_offset, FrameTable::default())
    }

    /// The leaf, in a data file of frames: `frames` lie back to back from `data_offset` on, which
    /// may be any, and hold the present pages by ascending page.
    pub fn finish_frames(
        self,
        data_offset: u64,
        frames: Vec<FrameEntry>,
    ) -> Result<IndexLeaf, LeafError> {
        let present = self.present.count();
        let mut entries = frames.iter().enumerate();
        let is_right = self.unit_pages == 1
            && frames.len() == frame_count(present)
            && entries.all(|(index, entry)| entry.fits(pages_of(index, present)));
        if !is_right {
            return Err(LeafError::Frames {
                number: self.number,
                present,
                found: frames.len(),
            });
        }
        self.assemble(data_offset, FrameTable::new(frames, present))
    }

    fn assemble(self, data_offset: u64, frames: FrameTable) -> Result<IndexLeaf, LeafError> {
        let number = self.number;
        let mut pairs = self.present.words().iter().zip(self.zero.words());
        if pairs.any(|(present, zero)| present & zero != 0) {
            return Err(LeafError::Overlap { number });
        }
        let words = self.present.words().iter();
        let units = words.map(|word| unit_heads(*word, self.unit_pages).count_ones() as usize);
        let expected = units.sum();
        if expected != self.digests.len() {
            return Err(LeafError::Digests {
                number,
                expected,
                found: self.digests.len(),
            });
        }
        let bits = [self.present, self.zero];
        Ok(IndexLeaf::assemble(
            number,
            self.unit_pages,
            data_offset,
            bits,
            self.digests,
            frames,
        ))
    }
}
