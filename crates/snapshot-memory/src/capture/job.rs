//! One run of a writer: leaf by leaf through the pages that are taken.

use snapshot_format::page_map::flatten;
use snapshot_format::{
    DataLayout, IndexLeafBuilder, LEAF_PAGES, LeafRef, MemoryLayout, PageIndex, PageRange,
};

use super::data::DataWriter;
use super::gather::{Gatherer, Tally};
use super::map::MapWriter;
use super::options::Engine;
use super::scan::Scanner;
use crate::dirty::DirtyBitmap;
use crate::error::SinkError;
use crate::image::MemoryImage;
use crate::sink::{MemoryStats, Pages};

/// What takes pages into a leaf and into the data file.
pub(super) enum PageWriter<'a> {
    /// Straight from guest memory.
    Vectored {
        scanner: Scanner<'a>,
        data: DataWriter<'a>,
    },
    /// Through buffers.
    Gathered(Gatherer<'a>),
}

/// One run of a writer.
pub(super) struct Job<'d, 'a> {
    writer: PageWriter<'d>,
    map: MapWriter<'a>,
    base: Option<&'a MemoryImage>,
    index: Vec<LeafRef>,
    owners: Vec<LeafRef>,
    number: u16,
    unit_pages: u16,
}

/// What a run leaves behind.
pub(super) struct Done<'a> {
    pub(super) map: MapWriter<'a>,
    pub(super) index: Vec<LeafRef>,
    pub(super) owners: Vec<LeafRef>,
    pub(super) tally: Tally,
}

impl PageWriter<'_> {
    /// Where the next present page goes in packed data; 0 in sparse data.
    fn data_offset(&self) -> u64 {
        match self {
            Self::Vectored { .. } => 0,
            Self::Gathered(gatherer) => gatherer.data_offset(),
        }
    }

    /// Takes `pages` of the image into `leaf`, all of which lie in it.
    fn take(&mut self, pages: PageRange, leaf: &mut IndexLeafBuilder) -> Result<(), SinkError> {
        match self {
            Self::Vectored { scanner, data } => scanner.take(pages, leaf, data),
            Self::Gathered(gatherer) => gatherer.take(pages, leaf),
        }
    }

    /// Writes what is left and waits until all is written.
    fn finish(self) -> Result<Tally, SinkError> {
        match self {
            Self::Gathered(gatherer) => gatherer.finish(),
            Self::Vectored { scanner, data } => {
                let (present, zero) = (scanner.present, scanner.zero);
                let (calls, write_ns) = data.finish()?;
                Ok(Tally {
                    present,
                    zero,
                    calls,
                    write_ns,
                    engine: Engine::Vectored,
                })
            }
        }
    }
}

impl Tally {
    pub(super) fn stats(
        &self,
        layout: &MemoryLayout,
        data_layout: DataLayout,
        allocated_bytes: u64,
    ) -> MemoryStats {
        MemoryStats {
            present: self.present,
            zero: self.zero,
            inherited: layout.page_count() - self.present - self.zero,
            allocated_bytes,
            write_calls: self.calls,
            write_ns: self.write_ns,
            layout: Some(data_layout),
            engine: self.engine,
        }
    }
}

impl<'d, 'a> Job<'d, 'a> {
    pub(super) fn new(
        writer: PageWriter<'d>,
        map: MapWriter<'a>,
        base: Option<&'a MemoryImage>,
        number: u16,
        unit_pages: u16,
    ) -> Self {
        let (index, owners) = (Vec::new(), Vec::new());
        Self {
            writer,
            map,
            base,
            index,
            owners,
            number,
            unit_pages,
        }
    }

    pub(super) fn run(
        mut self,
        layout: &MemoryLayout,
        pages: Pages<'_>,
    ) -> Result<Done<'a>, SinkError> {
        match pages {
            Pages::Full => self.take_all(layout)?,
            Pages::Since { dirty, .. } => self.take_dirty(layout, dirty)?,
        }
        let tally = self.writer.finish()?;
        let Self {
            map, index, owners, ..
        } = self;
        Ok(Done {
            map,
            index,
            owners,
            tally,
        })
    }

    fn take_all(&mut self, layout: &MemoryLayout) -> Result<(), SinkError> {
        for number in layout.leaves() {
            let mut leaf = self.leaf(number)?;
            let at = self.writer.data_offset();
            self.writer.take(leaf_range(layout, number), &mut leaf)?;
            self.close(number, leaf, at)?;
        }
        Ok(())
    }

    fn take_dirty(&mut self, layout: &MemoryLayout, dirty: &DirtyBitmap) -> Result<(), SinkError> {
        let mut open: Option<(u32, IndexLeafBuilder, u64)> = None;
        let parts = dirty.iter_runs().flat_map(|run| layout.runs(run));
        for (number, part) in parts.flat_map(|(guest, run)| by_leaf(guest.0, run)) {
            if let Some((old, leaf, at)) = open.take_if(|(old, ..)| *old != number) {
                self.close(old, leaf, at)?;
            }
            let (_, leaf, _) = match &mut open {
                Some(open) => open,
                None => open.insert((number, self.leaf(number)?, self.writer.data_offset())),
            };
            self.writer.take(part, leaf)?;
        }
        match open {
            Some((number, leaf, at)) => self.close(number, leaf, at),
            None => Ok(()),
        }
    }

    fn leaf(&self, number: u32) -> Result<IndexLeafBuilder, SinkError> {
        IndexLeafBuilder::new(number, self.unit_pages).map_err(SinkError::Leaf)
    }

    /// Writes a leaf, whose pages start at `data_offset` in packed data, and its flattened map.
    fn close(
        &mut self,
        number: u32,
        leaf: IndexLeafBuilder,
        data_offset: u64,
    ) -> Result<(), SinkError> {
        let leaf = leaf.finish(data_offset).map_err(SinkError::Leaf)?;
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

/// The parts of a run of image pages that lie in one leaf each; `guest` is the first guest page.
fn by_leaf(guest: u64, run: PageRange) -> impl Iterator<Item = (u32, PageRange)> {
    let leaf_pages = LEAF_PAGES as u64;
    let first = guest / leaf_pages;
    let last = guest + run.count;
    (first..last.div_ceil(leaf_pages)).map(move |leaf| {
        let from = guest.max(leaf * leaf_pages);
        let to = last.min((leaf + 1) * leaf_pages);
        let start = run.start.0 + (from - guest);
        // Guest pages lie below 2^40, leaves below 2^26.
        let number = u32::try_from(leaf).unwrap_or(u32::MAX);
        (number, PageRange::new(start, to - from))
    })
}

/// The image pages of a leaf: contiguous, whatever gaps guest memory has.
fn leaf_range(layout: &MemoryLayout, number: u32) -> PageRange {
    let from = u64::from(number) * LEAF_PAGES as u64;
    let to = from + LEAF_PAGES as u64;
    let mut first = 0;
    let mut range: Option<PageRange> = None;
    for region in layout.regions() {
        let start = region.start.page().0;
        let count = region.len_bytes / snapshot_format::PAGE_BYTES;
        let (a, b) = (from.max(start), to.min(start + count));
        if a < b {
            let range = range.get_or_insert(PageRange {
                start: PageIndex(first + (a - start)),
                count: 0,
            });
            range.count += b - a;
        }
        first += count;
    }
    range.unwrap_or(PageRange::new(0, 0))
}
