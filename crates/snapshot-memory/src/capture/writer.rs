//! Writing the memory of one snapshot.

use snapshot_format::page_map::{MAX_UNIT_PAGES, flatten};
use snapshot_format::{
    DataFileRef, DataLayout, Digest, IndexLeafBuilder, LEAF_PAGES, LeafTable, MapRoot,
    MemoryLayout, PageIndex, PageRange, SnapshotId, SnapshotRef, limits,
};

use super::data::DataWriter;
use super::map::{MapWriter, WrittenMap, table};
use super::scan::Scanner;
use crate::error::SinkError;
use crate::image::{DataFile, MemoryImage};
use crate::sink::{MemoryStats, Pages};
use crate::source::{GuestMemorySource, Stability};
use crate::staged::StagedFile;

/// Writes guest memory to a sparse data file and to its map.
///
/// Zero pages are recorded and not stored. Memory taken by the writer does not grow with the guest,
/// but for 112 bytes for each 64 MiB of it.
#[derive(Clone, Copy)]
pub struct MemoryWriter<'a> {
    snapshot: SnapshotId,
    parent: Option<SnapshotRef>,
    parent_image: Option<&'a MemoryImage>,
    stability: Stability,
}

/// The memory of a snapshot as it was written.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct WrittenMemory {
    /// Which guest physical addresses are memory.
    pub layout: MemoryLayout,
    /// The digest of the root of the map.
    pub map_root: Digest,
    /// What a placement names the map by: BLAKE3 of its header and section table.
    pub map_frame: Digest,
    /// The length of the map in bytes.
    pub map_len_bytes: u64,
    /// The length of the data file in bytes.
    pub data_len_bytes: u64,
    /// Every data file that the memory is in; this snapshot's own is the last.
    pub dependencies: Vec<DataFileRef>,
    /// The leaves of the flattened map.
    pub flattened: LeafTable,
    /// What was done.
    pub stats: MemoryStats,
}

impl<'a> MemoryWriter<'a> {
    /// A writer of the memory of `snapshot`.
    #[must_use]
    pub fn new(snapshot: SnapshotId, stability: Stability) -> Self {
        Self {
            snapshot,
            parent: None,
            parent_image: None,
            stability,
        }
    }

    /// Names the parent. Its memory is needed for a diff; a full snapshot depends on no parent.
    #[must_use]
    pub fn parent(self, parent: SnapshotRef, image: Option<&'a MemoryImage>) -> Self {
        Self {
            parent: Some(parent),
            parent_image: image,
            ..self
        }
    }

    /// Writes `pages` of `source` to `data`, and what and where they are to `map`: two new files.
    pub fn write(
        &self,
        source: &dyn GuestMemorySource,
        pages: Pages<'_>,
        data: &mut StagedFile,
        map: &mut StagedFile,
    ) -> Result<WrittenMemory, SinkError> {
        let span = tracing::debug_span!("write memory", snapshot = %self.snapshot);
        let _entered = span.enter();
        let base = self.base(source, pages)?;
        let layout = source.layout();
        data.set_len(layout.len_bytes())?;
        let mut dependencies = dependencies_of(base);
        let mut job = Job {
            scanner: Scanner::new(source, self.unit_pages(pages)),
            data: DataWriter::new(data, source, self.stability),
            map: MapWriter::new(map, number_of(dependencies.len() + 1)?),
            base,
            index: Vec::new(),
            owners: Vec::new(),
            unit_pages: self.unit_pages(pages),
        };
        job.run(layout, pages)?;
        let (mut stats, root, map) = job.finish(self.snapshot, self.parent, layout)?;
        stats.allocated_bytes = data.allocated_bytes()?;
        dependencies.push(DataFileRef {
            snapshot: self.snapshot,
            index: 0,
            map_root: map.root,
        });
        let flattened = match base {
            Some(base) => base.table().overlaid(&root.owners),
            None => root.owners,
        };
        Ok(WrittenMemory {
            layout: root.layout,
            map_root: map.root,
            map_frame: map.frame,
            map_len_bytes: map.len_bytes,
            data_len_bytes: root.data_len_bytes,
            dependencies,
            flattened,
            stats,
        })
    }

    /// The memory to lay a diff over, once it is known to fit; `None` for a full snapshot.
    fn base(
        &self,
        source: &dyn GuestMemorySource,
        pages: Pages<'_>,
    ) -> Result<Option<&'a MemoryImage>, SinkError> {
        let Pages::Since { base, dirty } = pages else {
            return Ok(None);
        };
        let (Some(image), true) = (self.parent_image, self.parent == Some(base)) else {
            return Err(SinkError::WrongParent {
                expected: self.parent,
                found: base,
            });
        };
        if image.layout() != source.layout() {
            return Err(SinkError::LayoutDiffers);
        }
        let expected = source.layout().page_count();
        if dirty.page_count() != expected {
            return Err(SinkError::DirtyPageCount {
                found: dirty.page_count(),
                expected,
            });
        }
        Ok(Some(image))
    }

    /// Large units where nothing will be superseded page by page while it is written.
    fn unit_pages(&self, pages: Pages<'_>) -> u16 {
        match (pages, self.stability) {
            (Pages::Full, Stability::Paused) => MAX_UNIT_PAGES,
            _ => 1,
        }
    }
}

impl std::fmt::Debug for MemoryWriter<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryWriter")
            .field("snapshot", &self.snapshot)
            .field("parent", &self.parent)
            .field("stability", &self.stability)
            .finish_non_exhaustive()
    }
}

/// One run of a writer.
struct Job<'a> {
    scanner: Scanner<'a>,
    data: DataWriter<'a>,
    map: MapWriter<'a>,
    base: Option<&'a MemoryImage>,
    index: Vec<snapshot_format::LeafRef>,
    owners: Vec<snapshot_format::LeafRef>,
    unit_pages: u16,
}

impl Job<'_> {
    fn run(&mut self, layout: &MemoryLayout, pages: Pages<'_>) -> Result<(), SinkError> {
        match pages {
            Pages::Full => {
                for number in layout.leaves() {
                    let mut leaf = self.leaf(number)?;
                    let pages = leaf_range(layout, number);
                    self.scanner.take(pages, &mut leaf, &mut self.data)?;
                    self.close(number, leaf)?;
                }
            }
            Pages::Since { dirty, .. } => {
                let mut open: Option<(u32, IndexLeafBuilder)> = None;
                let parts = dirty.iter_runs().flat_map(|run| layout.runs(run));
                for (number, part) in parts.flat_map(|(guest, run)| by_leaf(guest.0, run)) {
                    if let Some((old, leaf)) = open.take_if(|(old, _)| *old != number) {
                        self.close(old, leaf)?;
                    }
                    let (_, leaf) = match &mut open {
                        Some(open) => open,
                        None => open.insert((number, self.leaf(number)?)),
                    };
                    self.scanner.take(part, leaf, &mut self.data)?;
                }
                if let Some((number, leaf)) = open {
                    self.close(number, leaf)?;
                }
            }
        }
        Ok(())
    }

    /// Writes what is left of both files.
    fn finish(
        self,
        id: SnapshotId,
        parent: Option<SnapshotRef>,
        layout: &MemoryLayout,
    ) -> Result<(MemoryStats, MapRoot, WrittenMap), SinkError> {
        let (write_calls, write_ns) = self.data.finish()?;
        let root = MapRoot {
            id,
            parent,
            layout: layout.clone(),
            data_layout: DataLayout::Sparse,
            unit_pages: self.unit_pages,
            data_len_bytes: layout.len_bytes(),
            file: self.map.number(),
            index: table(self.index),
            owners: table(self.owners),
        };
        let map = self.map.finish(&root)?;
        let (present, zero) = (self.scanner.present, self.scanner.zero);
        let stats = MemoryStats {
            present,
            zero,
            inherited: layout.page_count() - present - zero,
            allocated_bytes: 0,
            write_calls,
            write_ns,
        };
        Ok((stats, root, map))
    }

    fn leaf(&self, number: u32) -> Result<IndexLeafBuilder, SinkError> {
        IndexLeafBuilder::new(number, self.unit_pages).map_err(SinkError::Leaf)
    }

    /// Writes a leaf and its flattened map.
    fn close(&mut self, number: u32, leaf: IndexLeafBuilder) -> Result<(), SinkError> {
        let leaf = leaf.finish(0).map_err(SinkError::Leaf)?;
        let parent = match self.base {
            Some(base) => base.owner_leaf(number)?,
            None => None,
        };
        let owners = flatten(parent.as_deref(), &leaf, self.map.number());
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

/// Every data file of a chain.
fn dependencies_of(base: Option<&MemoryImage>) -> Vec<DataFileRef> {
    let files = base.map_or(&[][..], MemoryImage::files);
    files.iter().map(DataFile::reference).collect()
}

fn number_of(file: usize) -> Result<u16, SinkError> {
    match u16::try_from(file) {
        Ok(number) if file <= limits::MAX_DATA_FILES => Ok(number),
        _ => Err(SinkError::Limit {
            what: "data files of one snapshot",
            found: file as u64,
            limit: limits::MAX_DATA_FILES as u64,
            advice: "take a full snapshot",
        }),
    }
}

#[cfg(test)]
mod tests;
