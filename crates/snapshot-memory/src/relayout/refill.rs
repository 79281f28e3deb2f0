//! The whole memory of a snapshot that comes back from elsewhere, in one file.

use snapshot_format::page_map::PageBits;
use snapshot_format::{
    Digest, GuestPage, IndexLeaf, IndexLeafBuilder, LEAF_PAGES, MapRoot, OwnerLeaf, PAGE_BYTES,
    PageIndex, PageRange,
};

use super::files::{MARGIN_BYTES, NewFiles, PAGE, UNIT_PAGES};
use super::target::Target;
use super::{RelayoutError, RelayoutOptions, WrittenLayout};
use crate::error::SinkError;
use crate::image::{DataFile, ImageError};
use crate::restore::PageSource;
use crate::staged::StagedFile;
use crate::zero::is_zero;

/// What the map takes at most for a page: a digest, its state, its owner.
const MAP_BYTES_PER_PAGE: u64 = 36;

/// Pages that are read at once: 256 KiB.
const READ_PAGES: u64 = 64;

/// Pages of `source` that may have bytes other than zero.
pub(crate) fn filled_pages(source: &dyn PageSource) -> Result<u64, RelayoutError> {
    let count = source.layout().page_count();
    let (mut at, mut filled) = (0, 0);
    while at < count {
        let run = source.run(PageRange::new(at, count - at))?;
        let pages = run.count.clamp(1, count - at);
        filled += if run.is_zero { 0 } else { pages };
        at += pages;
    }
    Ok(filled)
}

/// Bytes that a file with so many pages of a memory of `all` takes at most, with its map.
pub(crate) const fn refill_room(pages: u64, all: u64) -> u64 {
    pages * (PAGE_BYTES + MAP_BYTES_PER_PAGE) + all * 3 + MARGIN_BYTES
}

/// Writes all of `source` to a merged file that stands alone: two new files of the snapshot whose
/// first data file is `first`. `filled` is how many of its pages may not be zero.
///
/// What the first file has present is present here, and what it says is zero must be zero.
pub(crate) fn refill(
    first: &DataFile,
    source: &dyn PageSource,
    filled: u64,
    options: &RelayoutOptions,
    files: [&mut StagedFile; 2],
) -> Result<WrittenLayout, RelayoutError> {
    let [data, map] = files;
    let new = NewFiles {
        options,
        root: MapRoot {
            file: 1,
            ..first.root().clone()
        },
        present: filled,
        features: first.features(),
        is_merged: true,
    };
    let mut present = 0;
    let mut written = new.write(data, map, |target, leaves| {
        for number in first.root().layout.leaves() {
            let (leaf, held) = fill_leaf(first, source, number, target)?;
            present += held.count() as u64;
            let owners = OwnerLeaf::from_fn(number, |page| u16::from(held.contains(page)));
            leaves.add(&leaf, &owners)?;
        }
        Ok(())
    })?;
    written.present = present;
    Ok(written)
}

/// Writes the pages of one leaf; the leaf that describes them, and which they are.
fn fill_leaf(
    first: &DataFile,
    source: &dyn PageSource,
    number: u32,
    target: &mut Target<'_>,
) -> Result<(IndexLeaf, PageBits), RelayoutError> {
    let layout = &first.root().layout;
    let built = IndexLeafBuilder::new(number, UNIT_PAGES).map_err(SinkError::Leaf);
    let mut built = built?;
    let said = first.index_leaf(number)?;
    let had = |page: usize| {
        said.as_ref()
            .is_some_and(|leaf| leaf.present().contains(page))
    };
    let no_bytes = |page: usize| said.as_ref().is_some_and(|leaf| leaf.zero().contains(page));
    let start = u64::from(number) * LEAF_PAGES as u64;
    let mut held = PageBits::new();
    let mut bytes = Vec::new();
    for (run, count) in layout.leaf_pages(number).runs() {
        // Pages that follow each other in the guest do so in the image.
        let image = layout.image_page(GuestPage(start + run as u64));
        let image = image.ok_or(ImageError::LeafMemory { leaf: number })?;
        let mut done = 0;
        while done < count as u64 {
            let pages = PageRange::new(image.0 + done, READ_PAGES.min(count as u64 - done));
            bytes.resize(PAGE * usize::try_from(pages.count).unwrap_or(0), 0);
            source.read_pages(pages, &mut bytes)?;
            let within = run + usize::try_from(done).unwrap_or(0);
            for ((page, image), bytes) in (within..)
                .zip(pages.start.0..)
                .zip(bytes.chunks_exact(PAGE))
            {
                if is_zero(bytes) && !had(page) {
                    built.zero().insert(page, 1);
                    continue;
                }
                if no_bytes(page) {
                    return Err(other(first, start + page as u64).into());
                }
                held.insert(page, 1);
                let room = target.room(1)?;
                room.copy_from_slice(bytes);
                built.digest(Digest::of(room));
                target.keep(PageIndex(image), 1)?;
            }
            done += pages.count;
        }
    }
    built.present().words_mut().copy_from_slice(held.words());
    Ok((target.close_leaf(built)?, held))
}

fn other(first: &DataFile, guest: u64) -> ImageError {
    ImageError::OtherMemory {
        file: "the memory that comes back".to_owned(),
        first: first.names().map.clone(),
        what: format!("guest page {guest:#x} is zero there"),
    }
}
