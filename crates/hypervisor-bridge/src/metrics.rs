//! What a snapshot or a restore tells of itself, in one value.

use serde::Serialize;
use snapshot_format::{DataLayout, MemoryLayout};
use snapshot_memory::{DirtyTracker, MemoryReport, MemoryStats, SourceFacts};

use super::breakdown::{PauseBreakdown, RestoreBreakdown};
use super::live::LiveReport;
use super::snapshot::Selection;

/// What one snapshot or one restore did, for logs and dashboards.
///
/// Times are in nanoseconds and end with `_ns`, sizes are in bytes and end with `_bytes`, pages are
/// of 4096 bytes. Its JSON form has these names.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Metrics {
    /// vCPUs of the machine.
    pub vcpus: usize,
    /// Where the time of a snapshot went; `None` for a restore.
    pub pause: Option<PauseBreakdown>,
    /// Where the time of a restore went; `None` for a snapshot.
    pub restore: Option<RestoreBreakdown>,
    /// How a restore put memory in place, and whether and when its pages are checked.
    pub restored_memory: Option<MemoryReport>,
    /// What a snapshot wrote of memory.
    pub memory: Option<MemoryMetrics>,
    /// What a live snapshot did while the machine ran; `None` for any other.
    pub live: Option<LiveReport>,
    /// Which pages a snapshot took, and who said so; `None` where nothing is tracked.
    pub tracking: Option<TrackingMetrics>,
}

/// What was written of memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct MemoryMetrics {
    /// Bytes of guest memory.
    pub guest_bytes: u64,
    /// Pages whose bytes were stored.
    pub pages_present: u64,
    /// Pages recorded as zero.
    pub pages_zero: u64,
    /// Pages inherited from the parent.
    pub pages_inherited: u64,
    /// Bytes of blocks that the data file occupies.
    pub stored_bytes: u64,
    /// Calls that wrote data.
    pub write_calls: u64,
    /// Time spent writing, without syncs: a part of the pause.
    pub write_ns: u64,
    /// `sparse` or `packed`; `None` if no memory was written.
    pub layout: Option<&'static str>,
    /// What wrote it: `direct`, `direct-sync`, `buffered` or `vectored`.
    pub engine: &'static str,
}

/// How the written pages were found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct TrackingMetrics {
    /// `full`: every page was taken, and diffs may follow; `diff`: those since the parent.
    pub mode: &'static str,
    /// The dirty sources, as the tracker was given them.
    pub sources: Vec<SourceMetrics>,
    /// Whose writes no source sees.
    pub unseen: Vec<&'static str>,
}

/// A dirty source.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct SourceMetrics {
    /// Its name: `kvm-log`, `wp-async`, `vmm`.
    pub name: &'static str,
    /// `exact` or `superset`.
    pub guarantee: &'static str,
    /// Bytes that one bit of it stands for.
    pub granule_bytes: u64,
}

impl Metrics {
    /// Of a restore.
    pub(crate) fn of_restore(vcpus: usize, time: RestoreBreakdown, memory: MemoryReport) -> Self {
        Self {
            vcpus,
            restore: Some(time),
            restored_memory: Some(memory),
            ..Self::default()
        }
    }
}

impl MemoryMetrics {
    pub(crate) fn of(layout: &MemoryLayout, stats: &MemoryStats) -> Self {
        Self {
            guest_bytes: layout.len_bytes(),
            pages_present: stats.present,
            pages_zero: stats.zero,
            pages_inherited: stats.inherited,
            stored_bytes: stats.allocated_bytes,
            write_calls: stats.write_calls,
            write_ns: stats.write_ns,
            layout: stats.layout.map(layout_name),
            engine: stats.engine.name(),
        }
    }
}

impl TrackingMetrics {
    /// What tracks the pages of `selection`.
    pub(crate) fn of(selection: Selection<'_>) -> Option<Self> {
        let (mode, tracker): (_, &DirtyTracker) = match selection {
            Selection::Full => return None,
            Selection::FullTracked { tracker, .. } => ("full", tracker),
            Selection::Diff { tracker, .. } => ("diff", tracker),
        };
        Some(Self {
            mode,
            sources: tracker.sources().into_iter().map(source).collect(),
            unseen: tracker.blind_spots().names().collect(),
        })
    }
}

fn source(facts: SourceFacts) -> SourceMetrics {
    SourceMetrics {
        name: facts.name,
        guarantee: facts.guarantee.name(),
        granule_bytes: facts.granule_bytes,
    }
}

fn layout_name(layout: DataLayout) -> &'static str {
    match layout {
        DataLayout::Packed => "packed",
        _ => "sparse",
    }
}
