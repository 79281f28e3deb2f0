//! What is known of the pages of an image without reading them, for comparing.

use std::sync::Arc;

use snapshot_format::{Digest, GuestPage, IndexLeaf, LEAF_PAGES, PageIndex, PageRange};

use super::data_file::{DataFile, within_leaf};
use super::error::ImageError;
use super::reader::MemoryImage;

/// What the maps say of the bytes of a page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum KnownPage {
    /// All zero.
    Zero,
    /// They hash to this.
    Digest(Digest),
    /// They are digested together with others, in a unit of a data file.
    InUnit {
        /// The data file, counted from 1.
        owner: u16,
        /// The page in the layout of the data file.
        page: PageIndex,
    },
}

impl MemoryImage {
    /// What the maps say of a page of memory.
    pub(crate) fn known_page(&self, page: GuestPage) -> Result<KnownPage, ImageError> {
        let Some(owner) = self.owner_of(page)? else {
            return Ok(KnownPage::Zero);
        };
        let (file, leaf) = self.held_leaf(owner, page)?;
        let known = if leaf.unit_pages() == 1 {
            leaf.unit_digest(within_leaf(page))
                .copied()
                .map(KnownPage::Digest)
        } else {
            let page = file.root.layout.image_page(page);
            page.map(|page| KnownPage::InUnit { owner, page })
        };
        known.ok_or_else(|| file.not_held(page))
    }

    /// Reads and checks all of the unit of data file `owner` that holds `page` into `bytes`. Gives
    /// the pages in the layout of the data file that it covers; only those that `owner` owns are
    /// of use.
    pub(crate) fn read_unit(
        &self,
        owner: u16,
        page: GuestPage,
        bytes: &mut Vec<u8>,
    ) -> Result<PageRange, ImageError> {
        let (file, leaf) = self.held_leaf(owner, page)?;
        let (unit, _) = file.read_unit(&leaf, page, bytes)?;
        Ok(unit)
    }

    fn owner_of(&self, page: GuestPage) -> Result<Option<u16>, ImageError> {
        let leaf = match u32::try_from(page.0 / LEAF_PAGES as u64) {
            Ok(number) => self.owner_leaf(number)?,
            Err(_) => None,
        };
        let owner = leaf.map_or(0, |leaf| leaf.owner(within_leaf(page)));
        Ok((owner != 0).then_some(owner))
    }

    fn held_leaf(
        &self,
        owner: u16,
        page: GuestPage,
    ) -> Result<(&DataFile, Arc<IndexLeaf>), ImageError> {
        let file = self.file(owner)?;
        let leaf = match u32::try_from(page.0 / LEAF_PAGES as u64) {
            Ok(number) => file.index_leaf(number)?,
            Err(_) => None,
        };
        let leaf = leaf.filter(|leaf| leaf.present().contains(within_leaf(page)));
        let leaf = leaf.ok_or_else(|| file.not_held(page))?;
        Ok((file, leaf))
    }
}
