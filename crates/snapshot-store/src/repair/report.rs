//! What a repair did, or would do.

use serde::Serialize;
use snapshot_format::{SnapshotId, VmName};

use crate::directory::Location;

/// How a repair ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RepairOutcome {
    /// Nothing is wrong.
    Sound,
    /// All that was wrong is right again.
    Mended,
    /// A part of it is.
    Partly,
    /// None of it is: nothing was changed.
    Lost,
}

/// What a repair did, or would do.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct RepairReport {
    /// The snapshot that was to be repaired, with all that it needs.
    pub id: SnapshotId,
    /// Whether this is a plan: nothing was changed.
    pub dry_run: bool,
    /// All files together.
    pub outcome: RepairOutcome,
    /// Every file in which something was wrong.
    pub files: Vec<RepairedFile>,
    /// Every snapshot that has memory which nobody has any more.
    pub hurt: Vec<HurtSnapshot>,
}

/// A file in which something was wrong.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct RepairedFile {
    /// Whose file.
    pub snapshot: SnapshotId,
    /// The file, below the root of the store.
    pub file: String,
    /// What was wrong with it, the first thing found.
    pub problem: String,
    /// What became of it.
    pub outcome: RepairOutcome,
    /// Units of memory whose bytes were not those of their digest; 0 where it holds no memory.
    pub damaged_units: u64,
    /// How many of them have their bytes again.
    pub mended_units: u64,
    /// Where their bytes came from.
    pub from: Vec<String>,
    /// Where the damaged file was copied to, below the root of the store.
    pub quarantined: Option<String>,
}

/// A snapshot that has memory which nobody has any more.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct HurtSnapshot {
    /// Which.
    pub id: SnapshotId,
    /// Its virtual machine.
    pub vm: VmName,
    /// Whether it is in use or deleted.
    pub location: Location,
    /// What of its memory is lost.
    pub lost: Vec<LostRange>,
}

/// A range of guest memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct LostRange {
    /// The number of the region of the layout that it lies in, from 0.
    pub region: usize,
    /// Where that region starts, as a guest physical address.
    pub region_start: u64,
    /// Where the range starts, as a guest physical address.
    pub start: u64,
    /// Its length in bytes.
    pub len_bytes: u64,
}

impl RepairOutcome {
    /// Two parts taken together.
    pub(super) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Sound, other) | (other, Self::Sound) => other,
            (one, other) if one == other => one,
            _ => Self::Partly,
        }
    }

    /// Of so many parts, so many are right again.
    pub(super) fn of(damaged: u64, mended: u64) -> Self {
        match mended {
            all if all == damaged => Self::Mended,
            0 => Self::Lost,
            _ => Self::Partly,
        }
    }
}

impl RepairedFile {
    pub(super) fn new(snapshot: SnapshotId, file: &str, problem: String) -> Self {
        Self {
            snapshot,
            file: file.to_owned(),
            problem,
            outcome: RepairOutcome::Lost,
            damaged_units: 0,
            mended_units: 0,
            from: Vec::new(),
            quarantined: None,
        }
    }
}
