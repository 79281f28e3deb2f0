//! The two files that every new layout ends in: data, and the map that says where it lies.

use snapshot_format::{DataLayout, Features, IndexLeaf, LeafRef, MapRoot, OwnerLeaf, PAGE_BYTES};

use super::output::Output;
use super::target::Target;
use super::{RelayoutError, RelayoutOptions, WrittenLayout};
use crate::capture::{MapWriter, table};
use crate::direct::QueueMode;
use crate::error::FileError;
use crate::frames::FrameEncoder;
use crate::staged::StagedFile;

#[expect(clippy::cast_possible_truncation, reason = "4096")]
pub(super) const PAGE: usize = PAGE_BYTES as usize;

/// Digests of new files are of single pages: any page can then lie anywhere.
pub(super) const UNIT_PAGES: u16 = 1;

/// Headers, tables, and the last block of each file.
pub(super) const MARGIN_BYTES: u64 = 64 << 10;

/// Buffers of one writer: 8 MiB.
const BUFFERS: usize = 4;

/// What a data file and its map are to be.
pub(super) struct NewFiles<'a> {
    pub(super) options: &'a RelayoutOptions,
    /// The root of the map but for what writing decides.
    pub(super) root: MapRoot,
    /// Pages that will be kept.
    pub(super) present: u64,
    /// What the map asks its readers to know.
    pub(super) features: Features,
    /// Whether it asks for readers that know merged files.
    pub(super) is_merged: bool,
}

/// The leaves of the map, in ascending order.
pub(super) struct Leaves<'a> {
    map: MapWriter<'a>,
    index: Vec<LeafRef>,
    owners: Vec<LeafRef>,
}

impl Leaves<'_> {
    /// Appends what the file holds of a leaf, and the leaf of the flattened map.
    pub(super) fn add(&mut self, index: &IndexLeaf, owners: &OwnerLeaf) -> Result<(), FileError> {
        let place = self.map.leaf(index.number(), &index.encode())?;
        self.index.push(place);
        let place = self.map.leaf(owners.number(), &owners.encode())?;
        self.owners.push(place);
        Ok(())
    }
}

impl NewFiles<'_> {
    /// Writes both, new and empty, files: `fill` keeps pages and appends leaves.
    pub(super) fn write(
        self,
        data: &mut StagedFile,
        map: &mut StagedFile,
        fill: impl FnOnce(&mut Target<'_>, &mut Leaves<'_>) -> Result<(), RelayoutError>,
    ) -> Result<WrittenLayout, RelayoutError> {
        let mut leaves = Leaves {
            map: MapWriter::new(map, self.root.file)
                .features(self.features)
                .merged(self.is_merged),
            index: Vec::new(),
            owners: Vec::new(),
        };
        let mut target = self.begin(data)?;
        fill(&mut target, &mut leaves)?;
        let kept_bytes = target.finish()?;
        let layout = self.options.layout;
        let data_len_bytes = match layout {
            DataLayout::Sparse => self.root.layout.len_bytes(),
            _ => kept_bytes,
        };
        data.set_len(data_len_bytes)?;
        let root = MapRoot {
            data_layout: layout,
            unit_pages: UNIT_PAGES,
            data_len_bytes,
            index: table(leaves.index),
            owners: table(leaves.owners),
            ..self.root
        };
        let written = leaves.map.finish(&root)?;
        Ok(WrittenLayout {
            map_root: written.root,
            map_frame: written.frame,
            map_len_bytes: written.len_bytes,
            data_len_bytes,
            owners: root.owners,
            present: self.present,
            allocated_bytes: data.allocated_bytes()? + map.allocated_bytes()?,
        })
    }

    /// Makes the data file ready for its pages.
    fn begin<'d>(&self, data: &'d mut StagedFile) -> Result<Target<'d>, RelayoutError> {
        let (layout, bytes) = (self.options.layout, self.present * PAGE_BYTES);
        match layout {
            DataLayout::Packed if self.present > 0 => data.reserve(bytes)?,
            DataLayout::Sparse => data.set_len(self.root.layout.len_bytes())?,
            _ => {}
        }
        let encoder = match layout {
            DataLayout::Frames => Some(FrameEncoder::new(self.options.codec)?),
            _ => None,
        };
        let queue = data.write_queue(QueueMode::PreferDirect, BUFFERS)?;
        let output = Output::new(queue, &self.options.control, bytes);
        Target::new(output, layout, encoder)
    }
}
