//! What one capture comes to: from what was asked for and what there is.

use std::num::NonZeroUsize;
use std::thread;

use snapshot_format::page_map::MAX_UNIT_PAGES;
use snapshot_format::{DataLayout, PageRange};

use super::chunk::CHUNK_PAGES;
use super::{CaptureOptions, EngineChoice, LayoutChoice};
use crate::sink::Pages;
use crate::source::{GuestMemorySource, Stability};

/// How one capture is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice {
    pub(super) data_layout: DataLayout,
    /// Pages of a digest unit.
    pub(super) unit_pages: u16,
    /// Whether pages are written from where they are.
    pub(super) in_place: bool,
    /// Threads, the caller's included.
    pub(super) threads: usize,
    /// Pages that will be looked at.
    pub(super) page_count: u64,
}

impl Choice {
    pub(super) fn new(
        options: &CaptureOptions,
        source: &dyn GuestMemorySource,
        pages: Pages<'_>,
        stability: Stability,
    ) -> Self {
        let data_layout = data_layout(options, pages);
        let page_count = match pages {
            Pages::Full => source.layout().page_count(),
            Pages::Since { dirty, .. } => dirty.count(),
        };
        // Large units where nothing will be superseded page by page while it is written.
        let unit_pages = match (pages, stability, data_layout) {
            (Pages::Full, Stability::Paused, DataLayout::Sparse) => MAX_UNIT_PAGES,
            _ => 1,
        };
        Self {
            data_layout,
            unit_pages,
            in_place: is_in_place(options, source, stability),
            threads: threads(options.threads, page_count),
            page_count,
        }
    }
}

fn data_layout(options: &CaptureOptions, pages: Pages<'_>) -> DataLayout {
    match (options.layout, pages) {
        (LayoutChoice::Packed, _) => DataLayout::Packed,
        (LayoutChoice::Auto, Pages::Since { .. }) if options.engine != EngineChoice::Vectored => {
            DataLayout::Packed
        }
        _ => DataLayout::Sparse,
    }
}

/// Whether pages are written straight from guest memory.
fn is_in_place(
    options: &CaptureOptions,
    source: &dyn GuestMemorySource,
    stability: Stability,
) -> bool {
    stability == Stability::Paused
        && options.engine == EngineChoice::Vectored
        && source.host_run(PageRange::new(0, 1)).is_some()
}

fn threads(asked: Option<NonZeroUsize>, pages: u64) -> usize {
    let chunks = usize::try_from(pages.div_ceil(CHUNK_PAGES)).unwrap_or(usize::MAX);
    let cpus = || thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let wanted = asked.map_or_else(|| cpus().min(DEFAULT_THREADS), NonZeroUsize::get);
    wanted.min(chunks).clamp(1, MAX_THREADS)
}

/// Threads of a capture, if nothing else is said.
const DEFAULT_THREADS: usize = 2;

/// Threads of a capture at most: the disk is the limit long before.
const MAX_THREADS: usize = 16;
