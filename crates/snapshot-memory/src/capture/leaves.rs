//! The leaves of a map, one after the other.

use snapshot_format::page_map::flatten;
use snapshot_format::{IndexLeafBuilder, LeafRef, MemoryLayout};

use super::map::MapWriter;
use crate::error::SinkError;
use crate::image::MemoryImage;

/// Writes each leaf, and the parent's owner leaf with it laid over, when the next one begins.
pub(super) struct LeafWriter<'a> {
    map: MapWriter<'a>,
    base: Option<&'a MemoryImage>,
    /// The memory of now, and the leaves of which it is not what it was, descending.
    changed: Option<(&'a MemoryLayout, Vec<u32>)>,
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
            changed: None,
            number,
            unit_pages,
            open: None,
            index: Vec::new(),
            owners: Vec::new(),
        }
    }

    /// The same, for memory `layout` of which `leaves`, ascending, are not what they were in the
    /// parent: these are written even where every page is inherited.
    pub(super) fn changed(self, layout: &'a MemoryLayout, mut leaves: Vec<u32>) -> Self {
        leaves.reverse();
        let changed = (!leaves.is_empty()).then_some((layout, leaves));
        Self { changed, ..self }
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
        let open = if let Some(open) = self.open.take() {
            open
        } else {
            self.close_untouched(Some(number))?;
            self.fresh(number, data_offset)?
        };
        Ok(&mut self.open.insert(open).builder)
    }

    fn fresh(&self, number: u32, data_offset: u64) -> Result<OpenLeaf, SinkError> {
        Ok(OpenLeaf {
            number,
            data_offset,
            builder: IndexLeafBuilder::new(number, self.unit_pages).map_err(SinkError::Leaf)?,
        })
    }

    /// Writes leaves whose memory changed and of which no page is taken, up to leaf `end`.
    fn close_untouched(&mut self, end: Option<u32>) -> Result<(), SinkError> {
        let is_before = |next: &mut u32| end.is_none_or(|end| *next < end);
        while let Some((_, leaves)) = &mut self.changed
            && let Some(number) = leaves.pop_if(is_before)
        {
            let leaf = self.fresh(number, 0)?;
            self.write(leaf, true)?;
        }
        Ok(())
    }

    /// Writes the last leaf.
    pub(super) fn finish(mut self) -> Result<WrittenLeaves<'a>, SinkError> {
        if let Some(last) = self.open.take() {
            self.close(last)?;
        }
        self.close_untouched(None)?;
        Ok(WrittenLeaves {
            map: self.map,
            index: self.index,
            owners: self.owners,
        })
    }

    fn close(&mut self, open: OpenLeaf) -> Result<(), SinkError> {
        let leaves = self.changed.as_mut().map(|(_, leaves)| leaves);
        let changed = leaves.and_then(|leaves| leaves.pop_if(|next| *next == open.number));
        if open.builder.is_empty() && changed.is_none() {
            // Every page that was dirty in it is inherited after all.
            return Ok(());
        }
        self.write(open, changed.is_some())
    }

    fn write(&mut self, open: OpenLeaf, is_changed: bool) -> Result<(), SinkError> {
        let number = open.number;
        let leaf = open.builder.finish(open.data_offset);
        let leaf = leaf.map_err(SinkError::Leaf)?;
        let parent = match self.base {
            Some(base) => base.owner_leaf(number)?,
            None => None,
        };
        let mut owners = flatten(parent.as_deref(), &leaf, self.number);
        if let (Some((layout, _)), true) = (&self.changed, is_changed) {
            // Memory that is gone is owned by nobody: should it come back, it is new.
            owners = owners.within(&layout.leaf_pages(number));
        }
        self.index.push(self.map.leaf(number, &leaf.encode())?);
        self.owners.push(self.map.leaf(number, &owners.encode())?);
        Ok(())
    }
}
