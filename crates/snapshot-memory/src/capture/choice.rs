//! What one capture comes to: from what was asked for and what there is.

use std::num::NonZeroUsize;

use snapshot_format::page_map::MAX_UNIT_PAGES;
use snapshot_format::{DataLayout, PageRange};

use super::chunk::CHUNK_PAGES;
use super::cost::{Chosen, CostModel, DirtyShape, choose};
use super::gaps::merged;
use super::{CaptureOptions, Dedup, EngineChoice, LayoutChoice};
use crate::dirty::DirtyBitmap;
use crate::sink::Pages;
use crate::source::{GuestMemorySource, Stability};
#[cfg(target_os = "linux")]
use crate::uffd::{Backing, backing};

/// How one capture is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice {
    /// Every page is taken, whatever was asked for, and the snapshot depends on no parent.
    pub(super) full: bool,
    pub(super) data_layout: DataLayout,
    /// Pages of a digest unit.
    pub(super) unit_pages: u16,
    /// Gaps of so many clean pages are taken as well.
    pub(super) gap_pages: u64,
    /// Which pages are compared with the parent's.
    pub(super) dedup: Dedup,
    /// Whether pages are written from where they are.
    pub(super) in_place: bool,
    /// Threads, the caller's included.
    pub(super) threads: usize,
    /// Pages that will be looked at.
    pub(super) page_count: u64,
    /// Pages of a chunk at most.
    pub(super) chunk_pages: u64,
}

impl Choice {
    pub(super) fn new(
        options: &CaptureOptions,
        model: &CostModel,
        source: &dyn GuestMemorySource,
        pages: Pages<'_>,
        stability: Stability,
    ) -> Self {
        let total_pages = source.layout().page_count();
        let all = Chosen {
            data_layout: full_layout(options),
            full: true,
        };
        // Counted once: it takes a third of a millisecond for 64 GiB.
        let shape = pages.dirty().map(|dirty| DirtyShape {
            total_pages,
            dirty_pages: dirty.count(),
            dirty_runs: dirty.run_count(),
            stability,
            dedup: options.dedup != Dedup::Off,
        });
        let chosen = shape.map_or(all, |shape| diff_layout(options, model, &shape));
        let chosen = if chosen.full { all } else { chosen };
        let diff = shape.zip(pages.dirty()).filter(|_| !chosen.full);
        let gap_pages = match (&diff, chosen.data_layout) {
            (Some((shape, _)), DataLayout::Sparse) => model.gap_pages(shape),
            _ => 0,
        };
        let page_count = diff.map_or(total_pages, |(shape, dirty)| {
            taken(dirty, &shape, gap_pages)
        });
        let has_long_runs =
            diff.is_none_or(|(shape, _)| shape.dirty_pages >= shape.dirty_runs * LONG_RUN_PAGES);
        // Large units where nothing will be superseded page by page while it is written.
        let unit_pages = match (chosen.full, stability, chosen.data_layout) {
            (true, Stability::Paused, DataLayout::Sparse) => MAX_UNIT_PAGES,
            _ => 1,
        };
        let dedup = if chosen.full {
            Dedup::Off
        } else {
            options.dedup
        };
        Self {
            full: chosen.full,
            data_layout: chosen.data_layout,
            unit_pages,
            gap_pages,
            dedup,
            in_place: dedup == Dedup::Off
                && stability == Stability::Paused
                && is_in_place(options, source, has_long_runs),
            threads: threads(options.threads, page_count),
            page_count,
            chunk_pages: chunk_pages(page_count),
        }
    }
}

impl Choice {
    /// How one round of a live snapshot is made.
    pub(super) fn live(options: &CaptureOptions, dirty: &DirtyBitmap) -> Self {
        let page_count = dirty.count();
        Self {
            full: false,
            data_layout: DataLayout::Sparse,
            unit_pages: 1,
            gap_pages: 0,
            dedup: Dedup::Off,
            in_place: false,
            threads: threads(options.threads, page_count),
            page_count,
            chunk_pages: chunk_pages(page_count),
        }
    }
}

/// Small captures have small chunks: the disk waits for the first one, and nothing else waits
/// while the last one is written.
fn chunk_pages(pages: u64) -> u64 {
    (pages / CHUNKS).clamp(LEAST_CHUNK_PAGES, CHUNK_PAGES)
}

/// The layout of a full snapshot: one that can be mapped, if nothing else is asked for.
fn full_layout(options: &CaptureOptions) -> DataLayout {
    match options.layout {
        LayoutChoice::Packed => DataLayout::Packed,
        _ => DataLayout::Sparse,
    }
}

fn diff_layout(options: &CaptureOptions, model: &CostModel, shape: &DirtyShape) -> Chosen {
    let diff = |data_layout| Chosen {
        data_layout,
        full: false,
    };
    match options.layout {
        LayoutChoice::Packed => diff(DataLayout::Packed),
        LayoutChoice::Sparse => diff(DataLayout::Sparse),
        LayoutChoice::Auto if options.engine == EngineChoice::Vectored => diff(DataLayout::Sparse),
        LayoutChoice::Auto => choose(model, shape),
    }
}

/// How many pages the dirty ones are with the gaps that are filled.
fn taken(dirty: &DirtyBitmap, shape: &DirtyShape, gap_pages: u64) -> u64 {
    if gap_pages == 0 {
        return shape.dirty_pages;
    }
    merged(dirty.iter_runs(), gap_pages)
        .map(|run| run.count)
        .sum()
}

/// Whether pages of memory that stands still are written from where they are.
///
/// Past the page cache that is a third faster than through buffers from huge pages, and a third
/// slower from small ones, which are scattered; and it is one write for each run.
fn is_in_place(
    options: &CaptureOptions,
    source: &dyn GuestMemorySource,
    has_long_runs: bool,
) -> bool {
    let is_mapped = || source.host_run(PageRange::new(0, 1)).is_some();
    match options.engine {
        EngineChoice::Vectored => is_mapped(),
        EngineChoice::Buffered => false,
        EngineChoice::Auto | EngineChoice::Direct => {
            let is_huge = || {
                options
                    .huge_pages
                    .unwrap_or_else(|| is_on_huge_pages(source))
            };
            has_long_runs && is_mapped() && is_huge()
        }
    }
}

#[cfg(target_os = "linux")]
fn is_on_huge_pages(source: &dyn GuestMemorySource) -> bool {
    backing(source) == Backing::Huge
}

/// No other system tells, and none has writes past the page cache that would gain from it.
#[cfg(not(target_os = "linux"))]
fn is_on_huge_pages(_source: &dyn GuestMemorySource) -> bool {
    false
}

fn threads(asked: NonZeroUsize, pages: u64) -> usize {
    let chunks = usize::try_from(pages.div_ceil(chunk_pages(pages))).unwrap_or(usize::MAX);
    asked.get().min(chunks).clamp(1, MAX_THREADS)
}

/// Pages of a run that is long enough for a write of its own: 64 KiB.
pub(super) const LONG_RUN_PAGES: u64 = 16;

/// Chunks of a capture at least, if they are not too small then.
const CHUNKS: u64 = 16;

/// Pages of a chunk, if there are as many: a write of 512 KiB.
const LEAST_CHUNK_PAGES: u64 = 128;

/// Threads of a capture at most: the disk is the limit long before.
const MAX_THREADS: usize = 16;
