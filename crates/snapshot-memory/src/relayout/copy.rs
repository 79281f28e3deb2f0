//! Copying the pages of a data file, leaf by leaf.

use snapshot_format::page_map::FRAME_PAGES;
use snapshot_format::{
    DataLayout, Digest, GuestPage, IndexLeaf, IndexLeafBuilder, LEAF_PAGES, MapRoot, PAGE_BYTES,
    PageIndex,
};

use super::output::Output;
use super::target::Target;
use super::{RelayoutError, RelayoutOptions, WrittenLayout};
use crate::capture::{MapWriter, table};
use crate::direct::QueueMode;
use crate::error::SinkError;
use crate::frames::FrameEncoder;
use crate::image::{DataFile, ImageError, within_leaf};
use crate::staged::StagedFile;
use crate::zero::is_zero;

#[expect(clippy::cast_possible_truncation, reason = "4096")]
const PAGE: usize = PAGE_BYTES as usize;

/// Buffers of one copy: 8 MiB.
const BUFFERS: usize = 4;

/// Digests of new files are of single pages: any page can then lie anywhere.
const UNIT_PAGES: u16 = 1;

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

/// Headers, tables, and the last block of each file.
const MARGIN_BYTES: u64 = 64 << 10;

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
    let present = source.page_counts()?.present;
    let bytes = present * PAGE_BYTES;
    match options.layout {
        DataLayout::Packed if present > 0 => data.reserve(bytes)?,
        DataLayout::Sparse => data.set_len(old.layout.len_bytes())?,
        _ => {}
    }
    let encoder = match options.layout {
        DataLayout::Frames => Some(FrameEncoder::new(options.codec)?),
        _ => None,
    };
    let queue = data.write_queue(QueueMode::PreferDirect, BUFFERS)?;
    let output = Output::new(queue, &options.control, bytes);
    let mut target = Target::new(output, options.layout, encoder)?;
    let mut map_writer = MapWriter::new(map, old.file)
        .features(source.features())
        .merged(source.is_merged());
    let (mut index, mut owners) = (Vec::new(), Vec::new());
    for (leaf, owner) in old.index.refs().iter().zip(old.owners.refs()) {
        if let Some(held) = source.index_leaf(leaf.number)? {
            let copied = copy_leaf(source, &held, &mut target)?;
            index.push(map_writer.leaf(leaf.number, &copied.encode())?);
            let flattened = source.owner_leaf(owner)?.encode();
            owners.push(map_writer.leaf(owner.number, &flattened)?);
        }
    }
    let kept_bytes = target.finish()?;
    let data_len_bytes = match options.layout {
        DataLayout::Sparse => old.layout.len_bytes(),
        _ => kept_bytes,
    };
    data.set_len(data_len_bytes)?;
    let root = MapRoot {
        data_layout: options.layout,
        unit_pages: UNIT_PAGES,
        data_len_bytes,
        index: table(index),
        owners: table(owners),
        ..old.clone()
    };
    let written = map_writer.finish(&root)?;
    Ok(WrittenLayout {
        map_root: written.root,
        map_frame: written.frame,
        map_len_bytes: written.len_bytes,
        data_len_bytes,
        owners: root.owners,
        present,
        allocated_bytes: data.allocated_bytes()? + map.allocated_bytes()?,
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
