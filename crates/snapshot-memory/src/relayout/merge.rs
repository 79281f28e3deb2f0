//! The pages of several data files of a chain in one.

use snapshot_format::{
    DataLayout, Digest, Features, GuestPage, IndexLeaf, IndexLeafBuilder, LEAF_PAGES, MapRoot,
    Operation, OwnerLeaf, PAGE_BYTES, PageRange,
};

use super::output::Output;
use super::target::Target;
use super::{RelayoutError, RelayoutOptions, WrittenLayout};
use crate::capture::{MapWriter, table};
use crate::consolidation::{Fragmentation, Takeover};
use crate::direct::QueueMode;
use crate::error::SinkError;
use crate::frames::FrameEncoder;
use crate::image::{ImageError, MemoryImage};
use crate::staged::StagedFile;

#[expect(clippy::cast_possible_truncation, reason = "4096")]
const PAGE: usize = PAGE_BYTES as usize;

/// Buffers of one merge: 8 MiB.
const BUFFERS: usize = 4;

/// Digests are of single pages: any page can then lie anywhere.
const UNIT_PAGES: u16 = 1;

/// What the map takes at most for a page: a digest, its state, its owner.
const MAP_BYTES_PER_PAGE: u64 = 36;

/// Headers, tables, and the last block of each file.
const MARGIN_BYTES: u64 = 64 << 10;

/// What is to be merged: all of the chain but the files that stay.
#[derive(Debug)]
pub(crate) struct Merge<'a> {
    /// The memory of the snapshot.
    pub(crate) image: &'a MemoryImage,
    /// The root of its own map.
    pub(crate) own: &'a MapRoot,
    /// How many files of the chain stay.
    pub(crate) kept: u16,
    /// How far pages that could stay are copied.
    pub(crate) fragmentation: Fragmentation,
}

impl Merge<'_> {
    /// The leaves of the flattened map that are written anew: those that lie in the map of a file
    /// that goes. Standing alone, every leaf that has memory.
    fn leaves(&self) -> Vec<u32> {
        if self.kept == 0 {
            return self.image.layout().leaves();
        }
        let leaves = self.image.table().refs().iter();
        let gone = leaves.filter(|leaf| leaf.file > self.kept);
        gone.map(|leaf| leaf.number).collect()
    }

    fn takeover(&self, number: u32) -> Result<Takeover, ImageError> {
        let leaf = self.image.owner_leaf(number)?;
        let zero = OwnerLeaf::uniform(number, 0);
        let leaf = leaf.as_deref().unwrap_or(&zero);
        Ok(Takeover::of(leaf, self.kept, self.fragmentation))
    }

    /// What the files that go ask of a build, together; refused where this one may not write them
    /// anew.
    pub(crate) fn features(&self) -> Result<Features, ImageError> {
        let mut all = Features::default();
        for file in self.image.files().skip(self.kept.into()) {
            let file = file?;
            file.allow(Operation::Rewrite)?;
            all = all.union(file.features());
        }
        Ok(all)
    }

    /// How many pages are copied, and bytes that the new files may take at most.
    pub(crate) fn measure(&self) -> Result<(u64, u64), RelayoutError> {
        let leaves = self.leaves();
        let (mut present, mut memory) = (0_u64, 0_u64);
        for number in &leaves {
            present += self.takeover(*number)?.pages().count() as u64;
            memory += LEAF_PAGES as u64;
        }
        // The state and the owner of every page of a leaf, taken over or not.
        let maps = present * MAP_BYTES_PER_PAGE + memory * 3;
        Ok((present, present * PAGE_BYTES + maps + MARGIN_BYTES))
    }

    /// Writes the merged file and its map: two new files.
    ///
    /// Every page is checked where it lies before it is kept.
    pub(crate) fn write(
        &self,
        options: &RelayoutOptions,
        data: &mut StagedFile,
        map: &mut StagedFile,
    ) -> Result<WrittenLayout, RelayoutError> {
        let (present, _) = self.measure()?;
        let (bytes, image_len) = (present * PAGE_BYTES, self.own.layout.len_bytes());
        match options.layout {
            DataLayout::Packed if present > 0 => data.reserve(bytes)?,
            DataLayout::Sparse => data.set_len(image_len)?,
            _ => {}
        }
        let encoder = match options.layout {
            DataLayout::Frames => Some(FrameEncoder::new(options.codec)?),
            _ => None,
        };
        let queue = data.write_queue(QueueMode::PreferDirect, BUFFERS)?;
        let output = Output::new(queue, &options.control, bytes);
        let mut target = Target::new(output, options.layout, encoder)?;
        let file = self.kept + 1;
        let mut map_writer = MapWriter::new(map, file)
            .features(self.features()?)
            .merged(true);
        let (mut index, mut owners) = (Vec::new(), Vec::new());
        for number in self.leaves() {
            let taken = self.takeover(number)?;
            let leaf = self.copy_leaf(number, &taken, &mut target)?;
            index.push(map_writer.leaf(number, &leaf.encode())?);
            owners.push(map_writer.leaf(number, &taken.owners().encode())?);
        }
        let kept_bytes = target.finish()?;
        let data_len_bytes = match options.layout {
            DataLayout::Sparse => image_len,
            _ => kept_bytes,
        };
        data.set_len(data_len_bytes)?;
        let root = MapRoot {
            data_layout: options.layout,
            unit_pages: UNIT_PAGES,
            data_len_bytes,
            file,
            index: table(index),
            owners: table(owners),
            ..self.own.clone()
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

    /// Copies what is taken over of one leaf; the leaf that describes the copies.
    fn copy_leaf(
        &self,
        number: u32,
        taken: &Takeover,
        target: &mut Target<'_>,
    ) -> Result<IndexLeaf, RelayoutError> {
        let layout = self.image.layout();
        let built = IndexLeafBuilder::new(number, UNIT_PAGES).map_err(SinkError::Leaf);
        let mut built = built?;
        let words = taken.pages().words();
        built.present().words_mut().copy_from_slice(words);
        for page in layout.leaf_pages(number).pages() {
            if taken.owners().owner(page) == 0 {
                built.zero().insert(page, 1);
            }
        }
        let first = u64::from(number) * LEAF_PAGES as u64;
        for (start, count) in taken.pages().runs() {
            let mut done = 0;
            while done < count as u64 {
                let guest = GuestPage(first + start as u64 + done);
                // Pages that follow each other in the guest do so in the image.
                let page = layout.image_page(guest);
                let page = page.ok_or(ImageError::LeafMemory { leaf: number })?;
                let room = target.room(count as u64 - done)?;
                let pages = (room.len() / PAGE) as u64;
                let range = PageRange::new(page.0, pages);
                self.image.read_pages(range, room)?;
                for bytes in room.chunks_exact(PAGE) {
                    built.digest(Digest::of(bytes));
                }
                target.keep(page, pages)?;
                done += pages;
            }
        }
        Ok(target.close_leaf(built)?)
    }
}
