//! The leaves of a map, one after the other.

use snapshot_format::page_map::flatten;
use snapshot_format::{IndexLeafBuilder, LeafRef};

use super::map::MapWriter;
use crate::error::SinkError;
use crate::image::MemoryImage;

/// Writes each leaf, and the parent's owner leaf with it laid over, when the next one begins.
pub(super) struct LeafWriter<'a> {
    map: MapWriter<'a>,
    base: Option<&'a MemoryImage>,
    /// The number of the data file.
    number: u16,
    unit_pages: u16,
    open: Option<OpenLeaf>,
    index: Vec<LeafRef>,
    owners: Vec<LeafRef>,
}

struct OpenLeaf {
    number: u32,
    /// Where its pages start in packed data; 0 in sparse data.
    data_offset: u64,
    builder: IndexLeafBuilder,
}

/// Leaves that are written.
pub(super) struct WrittenLeaves<'a> {
    pub(super) map: MapWriter<'a>,
    pub(super) index: Vec<LeafRef>,
    pub(super) owners: Vec<LeafRef>,
}

impl<'a> LeafWriter<'a> {
    pub(super) fn new(
        map: MapWriter<'a>,
        base: Option<&'a MemoryImage>,
        number: u16,
        unit_pages: u16,
    ) -> Self {
        Self {
            map,
            base,
            number,
            unit_pages,
            open: None,
            index: Vec::new(),
            owners: Vec::new(),
        }
    }

    /// Pages of a digest unit.
    pub(super) fn unit_pages(&self) -> u64 {
        self.unit_pages.into()
    }

    /// Leaf `number`; leaves come in ascending order. If it is a new one, its pages start at
    /// `data_offset`.
    pub(super) fn leaf(
        &mut self,
        number: u32,
        data_offset: u64,
    ) -> Result<&mut IndexLeafBuilder, SinkError> {
        if let Some(old) = self.open.take_if(|open| open.number != number) {
            self.close(old)?;
        }
        let open = match self.open.take() {
            Some(open) => open,
            None => OpenLeaf {
                number,
                data_offset,
                builder: IndexLeafBuilder::new(number, self.unit_pages).map_err(SinkError::Leaf)?,
            },
        };
        Ok(&mut self.open.insert(open).builder)
    }

    /// Writes the last leaf.
    pub(super) fn finish(mut self) -> Result<WrittenLeaves<'a>, SinkError> {
        if let Some(last) = self.open.take() {
            self.close(last)?;
        }
        Ok(WrittenLeaves {
            map: self.map,
            index: self.index,
            owners: self.owners,
        })
    }

    fn close(&mut self, open: OpenLeaf) -> Result<(), SinkError> {
        if open.builder.is_empty() {
            // Every page that was dirty in it is inherited after all.
            return Ok(());
        }
        let number = open.number;
        let leaf = open.builder.finish(open.data_offset);
        let leaf = leaf.map_err(SinkError::Leaf)?;
        let parent = match self.base {
            Some(base) => base.owner_leaf(number)?,
            None => None,
        };
        let owners = flatten(parent.as_deref(), &leaf, self.number);
        self.index.push(self.map.leaf(number, &leaf.encode())?);
        self.owners.push(self.map.leaf(number, &owners.encode())?);
        Ok(())
    }
}
