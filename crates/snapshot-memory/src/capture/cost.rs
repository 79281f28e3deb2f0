//! What a layout of the data file costs, and which one is chosen by it.

use snapshot_format::{DataLayout, PAGE_BYTES};

use crate::backend::FileSystem;
use crate::source::Stability;

/// What writing costs on one kind of file system. `specs/10-capture-choices.md` says how the
/// figures were measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct CostModel {
    /// Nanoseconds that one more run of pages costs in a sparse file: making its extent, and
    /// making that durable.
    pub extent_ns: u64,
    /// Bytes that are written, digested and made durable in a microsecond where they lie in a row.
    pub bytes_per_us: u64,
}

/// What there is to write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct DirtyShape {
    /// Pages of the guest.
    pub(super) total_pages: u64,
    /// Pages to write. Which of them are zero is not known yet.
    pub(super) dirty_pages: u64,
    /// The runs that they form.
    pub(super) dirty_runs: u64,
    pub(super) stability: Stability,
    /// Whether dirty pages are compared with the parent's.
    pub(super) dedup: bool,
}

/// How to write it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Chosen {
    pub(super) data_layout: DataLayout,
    /// Every page is written, and the snapshot depends on no parent.
    pub(super) full: bool,
}

impl CostModel {
    /// The figures of a file system; those of ext4 where nothing is known.
    #[must_use]
    pub fn of(file_system: &FileSystem) -> Self {
        match file_system.name.as_str() {
            "xfs" => Self::new(18_000, 2_000),
            "btrfs" => Self::new(50_000, 2_000),
            "tmpfs" | "memory" => Self::new(250, 2_000),
            _ => Self::default(),
        }
    }

    fn new(extent_ns: u64, bytes_per_us: u64) -> Self {
        Self {
            extent_ns,
            bytes_per_us,
        }
    }

    /// Nanoseconds that one page in a row costs.
    #[must_use]
    pub fn page_ns(&self) -> u64 {
        PAGE_BYTES * 1000 / self.bytes_per_us.max(1)
    }

    /// The longest gap of clean pages, in pages, that is filled: so long that writing it takes at
    /// most half the time of the extent that it saves.
    ///
    /// 0 where no gap may be filled, because memory runs or pages are compared, or should not be,
    /// because the guest is so small that nothing is won.
    pub(super) fn gap_pages(&self, shape: &DirtyShape) -> u64 {
        let may_fill = shape.stability == Stability::Paused && !shape.dedup;
        if !may_fill || shape.total_pages < SMALL_GUEST_PAGES {
            return 0;
        }
        (self.extent_ns / 2 / self.page_ns().max(1)).min(MAX_GAP_PAGES)
    }

    /// Whether the extents of a sparse file cost little beside its bytes.
    fn is_sparse_cheap(&self, shape: &DirtyShape) -> bool {
        let extents = shape.dirty_runs.saturating_mul(self.extent_ns);
        let bytes = shape.dirty_pages.saturating_mul(self.page_ns());
        extents.saturating_mul(SPARSE_BYTES_PER_EXTENT_TIME) <= bytes
    }
}

/// The figures of ext4.
impl Default for CostModel {
    fn default() -> Self {
        Self::new(9_000, 2_000)
    }
}

/// How to write a diff of `shape` where the caller leaves it open.
pub(super) fn choose(model: &CostModel, shape: &DirtyShape) -> Chosen {
    let is_nearly_all =
        shape.dirty_pages.saturating_mul(16) >= shape.total_pages.saturating_mul(15);
    let is_paused = shape.stability == Stability::Paused;
    let is_large = shape.total_pages >= SMALL_GUEST_PAGES;
    let full = is_nearly_all && is_large && is_paused && !shape.dedup;
    let is_sparse = full || shape.dirty_pages > 0 && model.is_sparse_cheap(shape);
    let data_layout = if is_sparse {
        DataLayout::Sparse
    } else {
        DataLayout::Packed
    };
    Chosen { data_layout, full }
}

/// The time of the bytes of a sparse file is at least so many times that of its extents: 5 %.
const SPARSE_BYTES_PER_EXTENT_TIME: u64 = 20;

/// What clean pages may add to a file is bounded: 32 KiB for a run.
const MAX_GAP_PAGES: u64 = 8;

/// Guests below 64 MiB get what they asked for, page by page.
const SMALL_GUEST_PAGES: u64 = (64 << 20) / PAGE_BYTES;

#[cfg(test)]
mod tests;
