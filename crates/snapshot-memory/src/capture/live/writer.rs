//! The writer of memory that changes while it is written.

use std::time::Instant;

use snapshot_format::sabotage::Sabotage;
use snapshot_format::{
    DataFileRef, DataLayout, MapRoot, MemoryLayout, PAGE_BYTES, PageRange, SnapshotId, SnapshotRef,
};

use super::aside::Aside;
use super::leaves::LiveLeaves;
use super::place::LivePlacer;
use crate::capture::choice::{Choice, LONG_RUN_PAGES};
use crate::capture::chunk::{Body, Chunk, Seen, bytes_of};
use crate::capture::leaves::LeafWriter;
use crate::capture::map::{MapWriter, table};
use crate::capture::pace::Pace;
use crate::capture::pipeline::{Pipeline, PlaceChunks};
use crate::capture::plan::{Plan, parts_of};
use crate::capture::plugged::Plugged;
use crate::capture::writer::{BUFFERS_A_THREAD, dependencies_of, flattened, number_of};
use crate::capture::{
    CaptureOptions, CaptureProgress, Dedup, Engine, EngineChoice, LayoutChoice, WrittenMemory,
};
use crate::direct::{DirectBuffer, QueueMode};
use crate::dirty::DirtyBitmap;
use crate::error::SinkError;
use crate::image::MemoryImage;
use crate::sink::{LivePlan, LiveRound, MemoryStats};
use crate::source::{GuestMemorySource, Stability};
use crate::staged::{StagedFile, StagedQueue};

/// Writes memory in rounds to a sparse data file of units of one page, and the map at the end.
///
/// It takes 32 bytes of memory for each page of the leaves that hold a page, until the map is
/// written, and what may be set aside.
pub(crate) struct LiveWriter<'a> {
    start: LiveStart<'a>,
    layout: MemoryLayout,
    /// The memory to lay a diff over.
    base: Option<&'a MemoryImage>,
    number: u16,
    plugged: Plugged,
    data: StagedFile,
    map: StagedFile,
    leaves: LiveLeaves,
    aside: Option<Aside>,
    pace: Pace,
    progress: CaptureProgress,
    calls: u64,
    write_ns: u64,
    engine: Engine,
}

/// What a live snapshot is, and how it is written.
pub(crate) struct LiveStart<'a> {
    pub(crate) snapshot: SnapshotId,
    pub(crate) parent: Option<SnapshotRef>,
    pub(crate) parent_image: Option<&'a MemoryImage>,
    pub(crate) options: CaptureOptions,
}

impl<'a> LiveWriter<'a> {
    /// A writer to two new files, with all memory in place that the pause will need.
    pub(crate) fn new(
        start: LiveStart<'a>,
        plan: LivePlan<'_>,
        mut data: StagedFile,
        map: StagedFile,
    ) -> Result<Self, SinkError> {
        check_options(&start.options)?;
        let base = start.base(plan.base)?;
        let layout = plan.layout.clone();
        let plugged = Plugged::between(base.map_or(&layout, MemoryImage::layout), &layout);
        let number = number_of(base.map_or(1, |base| base.references().len() + 1))?;
        data.set_len(layout.len_bytes())?;
        let aside = Aside::new(plan.aside_bytes, &data)?;
        let control = &start.options.control;
        let rate = plan.bytes_per_second.or(control.bytes_per_second);
        let progress = CaptureProgress {
            taken_bytes: 0,
            total_bytes: 0,
            written_bytes: 0,
        };
        Ok(Self {
            pace: Pace::start(control.cancel.clone(), rate),
            start,
            layout,
            base,
            number,
            plugged,
            data,
            map,
            leaves: LiveLeaves::default(),
            aside: Some(aside),
            progress,
            calls: 0,
            write_ns: 0,
            engine: Engine::default(),
        })
    }

    /// See [`LiveMemory::round`](crate::LiveMemory::round).
    pub(crate) fn round(
        &mut self,
        source: &dyn GuestMemorySource,
        dirty: &DirtyBitmap,
        stability: Stability,
    ) -> Result<LiveRound, SinkError> {
        let started = Instant::now();
        self.check_pages(source, dirty)?;
        // Pages that the parent does not have: with the first round, marked or not.
        let widened = self.plugged.widen_once(dirty);
        let dirty = widened.as_ref().unwrap_or(dirty);
        let choice = Choice::live(&self.start.options, dirty);
        let pages = choice.page_count;
        let mut round = LiveRound {
            pages,
            ..LiveRound::default()
        };
        if pages > 0 {
            let mode = self.queue_mode(pages, dirty.run_count());
            self.progress.total_bytes += pages * PAGE_BYTES;
            round.written_bytes = self.with_placer(mode, choice.threads, stability, |placer| {
                let pipeline = Pipeline {
                    source,
                    choice,
                    parent: None,
                };
                let mut plan = Plan::of_dirty(source.layout(), dirty, choice);
                pipeline.run(&mut plan, placer)
            })?;
        }
        round.ns = nanoseconds(started);
        self.write_ns = self.write_ns.saturating_add(round.ns);
        Ok(round)
    }

    /// See [`LiveMemory::set_aside`](crate::LiveMemory::set_aside).
    pub(crate) fn set_aside(
        &mut self,
        source: &dyn GuestMemorySource,
        dirty: &DirtyBitmap,
    ) -> Result<u64, SinkError> {
        self.check_pages(source, dirty)?;
        let aside = self.aside.as_mut();
        let aside = aside.ok_or(SinkError::Twice { what: "last pages" })?;
        aside.copy(source, dirty)
    }

    /// See [`LiveMemory::finish`](crate::LiveMemory::finish); the files come back with it.
    pub(crate) fn finish(mut self) -> Result<(WrittenMemory, [StagedFile; 2]), SinkError> {
        let started = Instant::now();
        self.write_aside()?;
        self.write_ns = self.write_ns.saturating_add(nanoseconds(started));
        let (present, zero) = self.leaves.counts();
        let map = MapWriter::new(&mut self.map, self.number);
        let leaves = LeafWriter::new(map, self.base, self.number, 1);
        let mut leaves = leaves.changed(&self.layout, std::mem::take(&mut self.plugged.leaves));
        std::mem::take(&mut self.leaves).write(&mut leaves)?;
        let leaves = leaves.finish()?;
        let data_len_bytes = self.layout.len_bytes();
        let root = MapRoot {
            id: self.start.snapshot,
            parent: self.start.parent,
            layout: self.layout.clone(),
            data_layout: DataLayout::Sparse,
            unit_pages: 1,
            data_len_bytes,
            file: self.number,
            index: table(leaves.index),
            owners: table(leaves.owners),
        };
        let written = leaves.map.finish(&root)?;
        let mut dependencies = dependencies_of(self.base);
        dependencies.push(DataFileRef {
            snapshot: self.start.snapshot,
            index: 0,
            map_root: written.root,
        });
        let stats = MemoryStats {
            present,
            zero,
            inherited: self.layout.page_count() - present - zero,
            allocated_bytes: self.data.allocated_bytes()?,
            write_calls: self.calls,
            write_ns: self.write_ns,
            layout: Some(DataLayout::Sparse),
            engine: self.engine,
        };
        let memory = WrittenMemory {
            map_root: written.root,
            map_frame: written.frame,
            map_len_bytes: written.len_bytes,
            data_len_bytes,
            dependencies,
            flattened: match self.base {
                Some(base) => flattened(base, &root),
                None => root.owners,
            },
            layout: root.layout,
            stats,
        };
        Ok((memory, [self.data, self.map]))
    }

    /// Digests and writes what was copied in the pause.
    fn write_aside(&mut self) -> Result<(), SinkError> {
        let Some(aside) = self.aside.take() else {
            return Ok(());
        };
        let layout = self.layout.clone();
        let mut parts = aside.into_parts().peekable();
        if parts.peek().is_none() || Sabotage::StaleAside.is_on() {
            return Ok(());
        }
        // Not many pages, and where the guest happened to write.
        let mode = self.queue_mode(1, 1);
        self.with_placer(mode, 1, Stability::Running, |placer| {
            for (number, (buffer, runs)) in (0..).zip(parts) {
                placer.place(chunk_of(number, buffer, &runs, &layout))?;
            }
            Ok(())
        })?;
        Ok(())
    }

    /// Past the page cache where runs are long. Each direct write of a hole waits for the ones
    /// before it to find blocks (ext4, XFS); the cache takes scattered pages at once, the same
    /// one many times, and finds blocks for all of them when they are made durable.
    fn queue_mode(&self, pages: u64, runs: u64) -> QueueMode {
        let engine = self.start.options.engine;
        if engine == EngineChoice::Auto && pages < runs * LONG_RUN_PAGES {
            return QueueMode::Buffered;
        }
        engine.queue_mode()
    }

    /// Has `place` place chunks, and waits until they are written: a page may come again
    /// afterwards. How many bytes there were.
    fn with_placer(
        &mut self,
        mode: QueueMode,
        threads: usize,
        stability: Stability,
        place: impl FnOnce(&mut LivePlacer<'_, '_>) -> Result<(), SinkError>,
    ) -> Result<u64, SinkError> {
        let queue: StagedQueue<'_> = self.data.write_queue(mode, BUFFERS_A_THREAD * threads)?;
        let mut placer = LivePlacer {
            layout: &self.layout,
            queue,
            leaves: &mut self.leaves,
            pace: (stability == Stability::Running).then_some(&mut self.pace),
            control: &self.start.options.control,
            progress: &mut self.progress,
            calls: 0,
            written_bytes: 0,
        };
        place(&mut placer)?;
        placer.queue.finish()?;
        self.engine = placer.queue.engine();
        self.calls += placer.calls;
        Ok(placer.written_bytes)
    }

    /// Refuses pages of other memory than the writer was begun for.
    fn check_pages(
        &self,
        source: &dyn GuestMemorySource,
        dirty: &DirtyBitmap,
    ) -> Result<(), SinkError> {
        let is_other = dirty.layout().is_some_and(|of| *of != self.layout);
        if *source.layout() != self.layout || is_other {
            return Err(SinkError::LayoutDiffers);
        }
        let expected = self.layout.page_count();
        if dirty.page_count() != expected {
            return Err(SinkError::DirtyPageCount {
                found: dirty.page_count(),
                expected,
            });
        }
        Ok(())
    }
}

impl<'a> LiveStart<'a> {
    /// The memory to lay a diff over `base`; `None` for a full snapshot.
    fn base(&self, base: Option<SnapshotRef>) -> Result<Option<&'a MemoryImage>, SinkError> {
        let Some(found) = base else {
            return Ok(None);
        };
        let image = self.parent_image.filter(|_| self.parent == Some(found));
        let image = image.ok_or(SinkError::WrongParent {
            expected: self.parent,
            found,
        })?;
        Ok(Some(image))
    }
}

impl std::fmt::Debug for LiveWriter<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LiveWriter")
            .field("snapshot", &self.start.snapshot)
            .field("parent", &self.start.parent)
            .finish_non_exhaustive()
    }
}

/// Refuses what a page that may come again rules out.
fn check_options(options: &CaptureOptions) -> Result<(), SinkError> {
    let reason = match options {
        options if options.layout == LayoutChoice::Packed => {
            "packed data has no place for a page that changes; leave the layout to be chosen"
        }
        options if options.dedup != Dedup::Off => {
            "pages are not compared with the parent's while they change; switch dedup off"
        }
        _ => return Ok(()),
    };
    Err(SinkError::LiveRefused { reason })
}

/// The pages of a buffer as a chunk that was read.
fn chunk_of(number: u64, buffer: DirectBuffer, runs: &[PageRange], layout: &MemoryLayout) -> Chunk {
    let pages: u64 = runs.iter().map(|run| run.count).sum();
    let mut seen = Seen::default();
    seen.look(buffer.get(..bytes_of(pages)).unwrap_or_default(), 1);
    Chunk {
        number,
        parts: parts_of(layout, runs.iter().copied()).collect(),
        body: Body::Copy(buffer),
        seen,
    }
}

fn nanoseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
