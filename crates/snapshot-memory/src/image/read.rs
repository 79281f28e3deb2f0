//! Reading pages out of one data file, each with the digest unit it belongs to.

use snapshot_format::{DataLayout, Digest, GuestPage, IndexLeaf, PAGE_BYTES, PageRange};

use super::data_file::{DataFile, within_leaf};
use super::error::ImageError;

impl DataFile {
    /// Fills `out` with guest pages from `first` on, all of one leaf and present in it.
    ///
    /// Units that are wanted whole are read straight into `out`, many in one call; of a unit that
    /// is wanted in part all is read and checked. Pages in a row span no hole in guest memory: a
    /// unit with memory on both sides of one is never wanted whole.
    pub(crate) fn read_held(
        &self,
        leaf: &IndexLeaf,
        first: GuestPage,
        out: &mut [u8],
    ) -> Result<(), ImageError> {
        if self.root.data_layout == DataLayout::Frames {
            return self.read_framed(leaf, first, out);
        }
        let (mut page, mut rest) = (first, out);
        while !rest.is_empty() {
            let whole = self.whole_units(leaf, page, rest.len() as u64 / PAGE_BYTES)?;
            let pages = if whole.pages > 0 {
                let (now, _) = rest.split_at_mut(len_of(whole.pages));
                self.read_data(whole.offset, now)?;
                self.check_units(leaf, page, whole.offset, now)?;
                whole.pages
            } else {
                self.read_part_of_unit(leaf, page, rest)?
            };
            page.0 += pages;
            rest = rest.split_off_mut(len_of(pages)..).unwrap_or_default();
        }
        Ok(())
    }

    /// The units from `page` on that lie wholly within the next `count` pages and back to back in
    /// the data file.
    pub(super) fn whole_units(
        &self,
        leaf: &IndexLeaf,
        page: GuestPage,
        count: u64,
    ) -> Result<UnitRun, ImageError> {
        let mut run = UnitRun {
            offset: 0,
            pages: 0,
        };
        while run.pages < count.min(MAX_READ_PAGES) {
            let next = GuestPage(page.0 + run.pages);
            let (unit, offset) = self.held_unit(leaf, next)?;
            let first = self.root.layout.guest_page(unit.start);
            let starts_here = first == Some(next);
            let follows = run.pages == 0 || offset == run.offset + run.pages * PAGE_BYTES;
            if !starts_here || !follows || run.pages + unit.count > count {
                break;
            }
            if run.pages == 0 {
                run.offset = offset;
            }
            run.pages += unit.count;
        }
        Ok(run)
    }

    /// Compares the digests of whole units that follow each other from `page` on.
    pub(super) fn check_units(
        &self,
        leaf: &IndexLeaf,
        mut page: GuestPage,
        mut offset: u64,
        mut bytes: &[u8],
    ) -> Result<(), ImageError> {
        while !bytes.is_empty() {
            let (unit, _) = self.held_unit(leaf, page)?;
            let len = len_of(unit.count).min(bytes.len());
            let (now, rest) = bytes.split_at(len);
            self.check_unit(leaf, page, offset, now)?;
            page.0 += unit.count;
            offset += len as u64;
            bytes = rest;
        }
        Ok(())
    }

    /// Reads the unit of `page` whole, unless it was read last, and copies the pages that are
    /// wanted: from `page` on, up to the end of the unit or of `out`. Gives how many.
    fn read_part_of_unit(
        &self,
        leaf: &IndexLeaf,
        page: GuestPage,
        out: &mut [u8],
    ) -> Result<u64, ImageError> {
        let mut spare = self.spares.unit.take();
        let (unit, bytes) = spare.bytes(self, leaf, page)?;
        let layout = &self.root.layout;
        let image_page = layout.image_page(page).ok_or_else(|| self.not_held(page))?;
        let before = image_page.0 - unit.start.0;
        let pages = (unit.count - before).min(out.len() as u64 / PAGE_BYTES);
        let from = len_of(before);
        let len = len_of(pages);
        if let (Some(to), Some(from)) = (out.get_mut(..len), bytes.get(from..from + len)) {
            to.copy_from_slice(from);
        }
        self.spares.unit.put(spare);
        Ok(pages)
    }

    /// Reads the whole unit of a present page, compared with its digest; its pages in the layout
    /// of this file, and its place in the file.
    pub(crate) fn read_unit(
        &self,
        leaf: &IndexLeaf,
        page: GuestPage,
        bytes: &mut Vec<u8>,
    ) -> Result<(PageRange, u64), ImageError> {
        let (unit, offset) = self.held_unit(leaf, page)?;
        bytes.clear();
        bytes.resize(len_of(unit.count), 0);
        self.read_data(offset, bytes)?;
        self.check_unit(leaf, page, offset, bytes)?;
        Ok((unit, offset))
    }

    /// Compares the digest of the unit of a present page with the one in the leaf.
    pub(crate) fn check_unit(
        &self,
        leaf: &IndexLeaf,
        page: GuestPage,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), ImageError> {
        let stored = *self.unit_digest(leaf, page)?;
        stored
            .check(bytes)
            .map_err(|computed| ImageError::DataDigest {
                file: self.names.data.clone(),
                offset,
                len_bytes: bytes.len() as u64,
                page,
                stored,
                computed,
            })
    }

    fn unit_digest<'a>(
        &self,
        leaf: &'a IndexLeaf,
        page: GuestPage,
    ) -> Result<&'a Digest, ImageError> {
        leaf.unit_digest(within_leaf(page))
            .ok_or_else(|| self.not_held(page))
    }

    pub(super) fn held_unit(
        &self,
        leaf: &IndexLeaf,
        page: GuestPage,
    ) -> Result<(PageRange, u64), ImageError> {
        self.unit(leaf, page).ok_or_else(|| self.not_held(page))
    }

    pub(crate) fn stray(&self, offset: u64) -> ImageError {
        ImageError::Stray {
            file: self.names.data.clone(),
            offset,
        }
    }

    pub(crate) fn not_held(&self, page: GuestPage) -> ImageError {
        ImageError::NotHeld {
            file: self.names.data.clone(),
            page,
        }
    }
}

/// Whole units in a row, back to back in the data file.
#[derive(Clone, Copy, Debug)]
pub(super) struct UnitRun {
    /// Where they start in the data file, in bytes.
    pub(super) offset: u64,
    /// How many pages they are.
    pub(super) pages: u64,
}

/// The length in bytes of pages that lie in one buffer.
fn len_of(pages: u64) -> usize {
    usize::try_from(pages * PAGE_BYTES).unwrap_or(usize::MAX)
}

/// Pages that one read brings at most: 1 MiB.
const MAX_READ_PAGES: u64 = 256;
