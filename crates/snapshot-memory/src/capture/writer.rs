//! Writing the memory of one snapshot.

use snapshot_format::page_map::MAX_UNIT_PAGES;
use snapshot_format::{
    DataFileRef, DataLayout, Digest, LeafTable, MapRoot, MemoryLayout, PAGE_BYTES, SnapshotId,
    SnapshotRef, limits,
};

use super::data::DataWriter;
use super::gather::Gatherer;
use super::job::{Job, PageWriter};
use super::map::{MapWriter, table};
use super::options::{CaptureOptions, EngineChoice, LayoutChoice};
use super::scan::Scanner;
use crate::error::SinkError;
use crate::image::{DataFile, MemoryImage};
use crate::sink::{MemoryStats, Pages};
use crate::source::{GuestMemorySource, Stability};
use crate::staged::StagedFile;

/// Writes guest memory to a data file and to its map.
///
/// Zero pages are recorded and not stored. Memory taken by the writer does not grow with the guest,
/// but for 112 bytes for each 64 MiB of it.
#[derive(Clone)]
pub struct MemoryWriter<'a> {
    snapshot: SnapshotId,
    parent: Option<SnapshotRef>,
    parent_image: Option<&'a MemoryImage>,
    stability: Stability,
    options: CaptureOptions,
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
            options: CaptureOptions::default(),
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

    /// Sets how memory is written.
    #[must_use]
    pub fn options(self, options: CaptureOptions) -> Self {
        Self { options, ..self }
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
        let data_layout = data_layout(self.options.layout, pages);
        let unit_pages = self.unit_pages(pages);
        let mut dependencies = dependencies_of(base);
        let number = number_of(dependencies.len() + 1)?;
        self.size(data, layout, pages, data_layout)?;
        let writer = self.page_writer(source, data, data_layout, unit_pages)?;
        let job = Job::new(
            writer,
            MapWriter::new(map, number),
            base,
            number,
            unit_pages,
        );
        let done = job.run(layout, pages)?;
        let data_len_bytes = match data_layout {
            DataLayout::Packed => done.tally.present * PAGE_BYTES,
            _ => layout.len_bytes(),
        };
        data.set_len(data_len_bytes)?;
        let root = MapRoot {
            id: self.snapshot,
            parent: self.parent,
            layout: layout.clone(),
            data_layout,
            unit_pages,
            data_len_bytes,
            file: number,
            index: table(done.index),
            owners: table(done.owners),
        };
        let written = done.map.finish(&root)?;
        dependencies.push(DataFileRef {
            snapshot: self.snapshot,
            index: 0,
            map_root: written.root,
        });
        let flattened = match base {
            Some(base) => base.table().overlaid(&root.owners),
            None => root.owners,
        };
        Ok(WrittenMemory {
            layout: layout.clone(),
            map_root: written.root,
            map_frame: written.frame,
            map_len_bytes: written.len_bytes,
            data_len_bytes,
            dependencies,
            flattened,
            stats: done
                .tally
                .stats(layout, data_layout, data.allocated_bytes()?),
        })
    }

    /// Gives the data file its length, or at least room, before pages are written to it.
    fn size(
        &self,
        data: &mut StagedFile,
        layout: &MemoryLayout,
        pages: Pages<'_>,
        data_layout: DataLayout,
    ) -> Result<(), SinkError> {
        match (data_layout, pages) {
            // Blocks that are there already cost a write past the cache less; what zero pages
            // leave over is cut off.
            (DataLayout::Packed, Pages::Since { dirty, .. }) if !dirty.is_clean() => {
                data.reserve(dirty.count() * PAGE_BYTES)?;
            }
            (DataLayout::Packed, _) => {}
            _ => data.set_len(layout.len_bytes())?,
        }
        Ok(())
    }

    fn page_writer<'w>(
        &self,
        source: &'w dyn GuestMemorySource,
        data: &'w mut StagedFile,
        data_layout: DataLayout,
        unit_pages: u16,
    ) -> Result<PageWriter<'w>, SinkError> {
        let is_sparse = data_layout == DataLayout::Sparse;
        if is_sparse && self.options.engine == EngineChoice::Vectored {
            let scanner = Scanner::new(source, unit_pages);
            let data = DataWriter::new(data, source, self.stability);
            return Ok(PageWriter::Vectored { scanner, data });
        }
        let direct = self.options.engine != EngineChoice::Vectored;
        let queue = data.write_queue(direct, BUFFERS)?;
        Ok(PageWriter::Gathered(Gatherer::new(
            source,
            queue,
            data_layout,
            unit_pages,
        )))
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
        match (
            pages,
            self.stability,
            data_layout(self.options.layout, pages),
        ) {
            (Pages::Full, Stability::Paused, DataLayout::Sparse) => MAX_UNIT_PAGES,
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

/// How the stored pages will lie in the data file.
fn data_layout(choice: LayoutChoice, pages: Pages<'_>) -> DataLayout {
    match (choice, pages) {
        (LayoutChoice::Sparse, _) | (LayoutChoice::Auto, Pages::Full) => DataLayout::Sparse,
        (LayoutChoice::Packed, _) | (LayoutChoice::Auto, Pages::Since { .. }) => DataLayout::Packed,
    }
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

/// Buffers of one writer: 8 MiB.
const BUFFERS: usize = 4;

#[cfg(test)]
mod tests;
