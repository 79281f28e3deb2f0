//! The pages of several data files of a chain in one.

use snapshot_format::sabotage::Sabotage;
use snapshot_format::{
    Digest, Features, GuestPage, IndexLeaf, IndexLeafBuilder, LEAF_PAGES, MapRoot, Operation,
    OwnerLeaf, PAGE_BYTES, PageRange,
};

use super::files::{MARGIN_BYTES, NewFiles, PAGE, UNIT_PAGES};
use super::target::Target;
use super::{RelayoutError, RelayoutOptions, WrittenLayout};
use crate::consolidation::{Fragmentation, Takeover};
use crate::error::SinkError;
use crate::image::{ImageError, MemoryImage};
use crate::staged::StagedFile;

/// What the map takes at most for a page: a digest, its state, its owner.
const MAP_BYTES_PER_PAGE: u64 = 36;

/// What is merged: all of the chain but the files that stay.
#[derive(Debug)]
pub(crate) struct Merge<'a> {
    /// The memory of the snapshot.
    image: &'a MemoryImage,
    /// The root of its own map.
    own: &'a MapRoot,
    /// How many files of the chain stay.
    kept: u16,
    /// How far pages that could stay are copied.
    fragmentation: Fragmentation,
    /// The leaves of the flattened map that are written anew: those that lie in the map of a file
    /// that goes. Standing alone, every leaf that has memory.
    leaves: Vec<u32>,
    /// What the files that go ask of a build, together.
    features: Features,
    /// How many pages are copied.
    present: u64,
}

impl<'a> Merge<'a> {
    /// Looks at what is to be merged; refused where this build may not write all of it anew.
    pub(crate) fn plan(
        image: &'a MemoryImage,
        own: &'a MapRoot,
        kept: u16,
        fragmentation: Fragmentation,
    ) -> Result<Self, ImageError> {
        let mut features = Features::default();
        for file in image.files().skip(kept.into()) {
            let file = file?;
            file.allow(Operation::Rewrite)?;
            features = features.union(file.features());
        }
        let leaves = if kept == 0 {
            image.layout().leaves()
        } else {
            let leaves = image.table().refs().iter();
            let gone = leaves.filter(|leaf| leaf.file > kept);
            gone.map(|leaf| leaf.number).collect()
        };
        let mut merge = Self {
            image,
            own,
            kept,
            fragmentation,
            leaves,
            features,
            present: 0,
        };
        for number in &merge.leaves {
            merge.present += merge.takeover(*number)?.pages().count() as u64;
        }
        Ok(merge)
    }

    fn takeover(&self, number: u32) -> Result<Takeover, ImageError> {
        let leaf = self.image.owner_leaf(number)?;
        let zero = OwnerLeaf::uniform(number, 0);
        let leaf = leaf.as_deref().unwrap_or(&zero);
        Ok(Takeover::of(leaf, self.kept, self.fragmentation))
    }

    /// Bytes that the new files may take at most.
    pub(crate) fn room(&self) -> u64 {
        let memory = self.leaves.len() as u64 * LEAF_PAGES as u64;
        // The state and the owner of every page of a leaf, taken over or not.
        let maps = self.present * MAP_BYTES_PER_PAGE + memory * 3;
        self.present * PAGE_BYTES + maps + MARGIN_BYTES
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
        let files = NewFiles {
            options,
            root: MapRoot {
                file: self.kept + 1,
                ..self.own.clone()
            },
            present: self.present,
            features: self.features,
            is_merged: true,
        };
        files.write(data, map, |target, leaves| {
            for number in &self.leaves {
                let taken = self.takeover(*number)?;
                let leaf = self.copy_leaf(*number, &taken, target)?;
                leaves.add(&leaf, taken.owners())?;
            }
            Ok(())
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
                match self.image.read_pages(range, room) {
                    Err(_) if Sabotage::UncheckedMerge.is_on() => {}
                    read => read?,
                }
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
