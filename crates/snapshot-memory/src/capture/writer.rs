//! Writing the memory of one snapshot.

use snapshot_format::{
    DataFileRef, DataLayout, Digest, LeafTable, MapRoot, MemoryLayout, PAGE_BYTES, SnapshotId,
    SnapshotRef, limits,
};

use super::choice::Choice;
use super::cost::CostModel;
use super::leaves::{LeafWriter, WrittenLeaves};
use super::map::{MapWriter, table};
use super::options::{CaptureOptions, Engine, EngineChoice};
use super::pipeline::Pipeline;
use super::placer::{Placer, Tally};
use super::plan::Plan;
use super::plugged::Plugged;
use crate::error::{FileError, SinkError};
use crate::image::MemoryImage;
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
    cost: CostModel,
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
            cost: CostModel::default(),
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

    /// Sets what writing costs where the files are; unless set, what it costs on ext4.
    #[must_use]
    pub fn cost(self, cost: CostModel) -> Self {
        Self { cost, ..self }
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
        let plugged = Plugged::between(base.map_or(layout, MemoryImage::layout), layout);
        let widened = plugged.widen(pages);
        let pages = pages.with_dirty(widened.as_ref());
        let choice = Choice::new(&self.options, &self.cost, source, pages, self.stability);
        let base = base.filter(|_| !choice.full);
        self.check_engine(choice, data)?;
        let number = number_of(base.map_or(1, |base| base.references().len() + 1))?;
        make_room(data, layout, pages, choice)?;
        let map = MapWriter::new(map, number);
        let leaves = LeafWriter::new(map, base, number, choice.unit_pages);
        let leaves = leaves.changed(layout, plugged.leaves);
        let parent = base.zip(pages.dirty());
        let plan = Plan::new(layout, pages, choice);
        let pipeline = Pipeline {
            source,
            choice,
            parent,
        };
        let (tally, leaves) = self.capture(pipeline, plan, data, leaves)?;
        let data_len_bytes = match choice.data_layout {
            DataLayout::Packed => tally.present * PAGE_BYTES,
            _ => layout.len_bytes(),
        };
        data.set_len(data_len_bytes)?;
        let root = MapRoot {
            id: self.snapshot,
            parent: self.parent,
            layout: layout.clone(),
            data_layout: choice.data_layout,
            unit_pages: choice.unit_pages,
            data_len_bytes,
            file: number,
            index: table(leaves.index),
            owners: table(leaves.owners),
        };
        let written = leaves.map.finish(&root)?;
        let mut dependencies = dependencies_of(base);
        dependencies.push(DataFileRef {
            snapshot: self.snapshot,
            index: 0,
            map_root: written.root,
        });
        let flattened = match base {
            Some(base) => flattened(base, &root),
            None => root.owners,
        };
        let stats = tally.stats(layout, choice.data_layout, data.allocated_bytes()?);
        Ok(WrittenMemory {
            layout: root.layout,
            map_root: written.root,
            map_frame: written.frame,
            map_len_bytes: written.len_bytes,
            data_len_bytes,
            dependencies,
            flattened,
            stats,
        })
    }

    /// Writes pages to the data file and leaves to the map.
    fn capture<'m>(
        &self,
        pipeline: Pipeline<'_>,
        mut plan: Plan<'_>,
        data: &mut StagedFile,
        leaves: LeafWriter<'m>,
    ) -> Result<(Tally, WrittenLeaves<'m>), SinkError> {
        let mode = self.options.engine.queue_mode();
        let Pipeline { source, choice, .. } = pipeline;
        let queue = data.write_queue(mode, BUFFERS_A_THREAD * choice.threads)?;
        let mut placer = Placer::new(source, queue, leaves, choice, self.options.control.clone());
        pipeline.run(&mut plan, &mut placer)?;
        let (mut tally, leaves) = placer.finish()?;
        if self.options.engine == EngineChoice::Vectored && choice.in_place {
            tally.engine = Engine::Vectored;
        }
        Ok((tally, leaves))
    }

    /// Refuses an engine that was asked for and cannot write what is to be written.
    fn check_engine(&self, choice: Choice, data: &StagedFile) -> Result<(), SinkError> {
        let is_sparse = choice.data_layout == DataLayout::Sparse;
        if self.options.engine == EngineChoice::Vectored && !is_sparse {
            return Err(SinkError::EngineRefused {
                path: data.path().clone(),
                engine: Engine::Vectored.name(),
                reason: "it writes sparse data only",
            });
        }
        Ok(())
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
        if dirty.layout().is_some_and(|of| of != source.layout()) {
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

/// Gives the data file its length, or at least room, before pages are written to it.
fn make_room(
    data: &mut StagedFile,
    layout: &MemoryLayout,
    pages: Pages<'_>,
    choice: Choice,
) -> Result<(), FileError> {
    match (choice.data_layout, pages) {
        // Blocks that are there already cost a write past the cache less; what zero pages leave
        // over is cut off.
        (DataLayout::Packed, Pages::Since { .. }) if choice.page_count > 0 => {
            data.reserve(choice.page_count * PAGE_BYTES)
        }
        (DataLayout::Packed, _) => Ok(()),
        _ => data.set_len(layout.len_bytes()),
    }
}

/// The leaves of the parent's flattened map that still hold memory, with those of `root` in place
/// of theirs.
pub(super) fn flattened(base: &MemoryImage, root: &MapRoot) -> LeafTable {
    let table = base.table().overlaid(&root.owners);
    if *base.layout() == root.layout {
        return table;
    }
    table.among(&root.layout.leaves())
}

/// Every data file of a chain.
pub(super) fn dependencies_of(base: Option<&MemoryImage>) -> Vec<DataFileRef> {
    base.map_or(&[][..], MemoryImage::references).to_vec()
}

pub(super) fn number_of(file: usize) -> Result<u16, SinkError> {
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

/// Buffers for each thread: two that are filled, two that are being written.
pub(super) const BUFFERS_A_THREAD: usize = 4;

#[cfg(test)]
mod tests;
