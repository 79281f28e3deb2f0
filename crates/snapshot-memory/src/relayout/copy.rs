//! Copying the pages of a data file, leaf by leaf.

use snapshot_format::page_map::FRAME_PAGES;
use snapshot_format::{
    Digest, GuestPage, IndexLeaf, IndexLeafBuilder, LEAF_PAGES, PAGE_BYTES, PageIndex,
};

use super::files::{MARGIN_BYTES, NewFiles, PAGE, UNIT_PAGES};
use super::target::Target;
use super::{RelayoutError, RelayoutOptions, WrittenLayout};
use crate::error::SinkError;
use crate::image::{DataFile, ImageError, within_leaf};
use crate::staged::StagedFile;
use crate::zero::is_zero;

/// Bytes that the new files may take at most.
pub(crate) fn room(source: &DataFile) -> Result<u64, RelayoutError> {
    let present = source.page_counts()?.present;
    let root = source.root();
    let leaves = root.index.len() as u64;
    let owners = root.owners.refs().iter().map(|leaf| u64::from(leaf.len));
    let map = leaves * IndexLeaf::encoded_len(0, LEAF_PAGES / FRAME_PAGES) as u64
        + present * size_of::<Digest>() as u64
        + owners.sum::<u64>()
        + root.encode().len() as u64;
    Ok(present * PAGE_BYTES + map + MARGIN_BYTES)
}

/// Writes the pages of `source` to `data` as the options say, and where they are to `map`: two new
/// files.
///
/// Every page is checked before it is kept. Digests of single pages are carried over; where those
/// of the source cover more, they are taken from the checked bytes.
pub(crate) fn copy(
    source: &DataFile,
    options: &RelayoutOptions,
    data: &mut StagedFile,
    map: &mut StagedFile,
) -> Result<WrittenLayout, RelayoutError> {
    let old = source.root();
    let files = NewFiles {
        options,
        root: old.clone(),
        present: source.page_counts()?.present,
        features: source.features(),
        is_merged: source.is_merged(),
    };
    files.write(data, map, |target, leaves| {
        for (leaf, owner) in old.index.refs().iter().zip(old.owners.refs()) {
            if let Some(held) = source.index_leaf(leaf.number)? {
                let copied = copy_leaf(source, &held, target)?;
                leaves.add(&copied, &source.owner_leaf(owner)?)?;
            }
        }
        Ok(())
    })
}

/// Copies the pages of one leaf; the leaf that describes the copies.
fn copy_leaf(
    source: &DataFile,
    leaf: &IndexLeaf,
    target: &mut Target<'_>,
) -> Result<IndexLeaf, RelayoutError> {
    let built = IndexLeafBuilder::new(leaf.number(), UNIT_PAGES).map_err(SinkError::Leaf);
    let mut copied = built?;
    copied
        .present()
        .words_mut()
        .copy_from_slice(leaf.present().words());
    copied
        .zero()
        .words_mut()
        .copy_from_slice(leaf.zero().words());
    if leaf.unit_pages() == UNIT_PAGES {
        copy_runs(source, leaf, target)?;
        for digest in leaf.digests() {
            copied.digest(*digest);
        }
    } else {
        for (page, _) in leaf.units() {
            copy_unit(source, leaf, page, &mut copied, target)?;
        }
    }
    Ok(target.close_leaf(copied)?)
}

/// Copies present pages that have a digest each: run by run, straight into the buffers.
fn copy_runs(
    source: &DataFile,
    leaf: &IndexLeaf,
    target: &mut Target<'_>,
) -> Result<(), RelayoutError> {
    for (start, count) in leaf.present().runs() {
        let start = leaf.first_page().0 + start as u64;
        let mut done = 0;
        while done < count as u64 {
            let page = GuestPage(start + done);
            let room = target.room(count as u64 - done)?;
            source.read_held(leaf, page, room)?;
            let pages = (room.len() / PAGE) as u64;
            // Pages that follow each other in the guest do so in the image.
            target.keep(image_page(source, page)?, pages)?;
            done += pages;
        }
    }
    Ok(())
}

/// Copies the present pages of the unit that starts at `page` of the leaf, each with a digest of
/// its own.
fn copy_unit(
    source: &DataFile,
    leaf: &IndexLeaf,
    page: usize,
    copied: &mut IndexLeafBuilder,
    target: &mut Target<'_>,
) -> Result<(), RelayoutError> {
    let group = page..page + usize::from(leaf.unit_pages());
    let held = group
        .into_iter()
        .find(|page| leaf.present().contains(*page));
    let first = GuestPage(leaf.first_page().0 + held.unwrap_or(page) as u64);
    let mut bytes = Vec::new();
    let (unit, offset) = source.read_unit(leaf, first, &mut bytes)?;
    for (page, bytes) in (unit.start.0..).zip(bytes.chunks_exact(PAGE)) {
        let page = PageIndex(page);
        let guest = source.root().layout.guest_page(page);
        if guest.is_some_and(|guest| leaf.present().contains(within_leaf(guest))) {
            let room = target.room(1)?;
            room.copy_from_slice(bytes);
            copied.digest(Digest::of(room));
            target.keep(page, 1)?;
        } else if !is_zero(bytes) {
            let stray = offset + (page.0 - unit.start.0) * PAGE_BYTES;
            return Err(source.stray(stray).into());
        }
    }
    Ok(())
}

fn image_page(source: &DataFile, page: GuestPage) -> Result<PageIndex, ImageError> {
    let place = source.root().layout.image_page(page);
    place.ok_or_else(|| source.not_held(page))
}
