//! What a collection would do, and what it did.

use serde::Serialize;
use snapshot_format::{SnapshotId, VmName};

/// How garbage is collected.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct GarbageOptions {
    /// For how long a deleted snapshot stays, in milliseconds from the first collection with a
    /// grace that saw it.
    pub grace_ms: u64,
    /// The time now, in milliseconds since 1970. Nothing but the grace is decided by it.
    pub now_unix_ms: u64,
}

impl GarbageOptions {
    /// Collects what was deleted for so long at this time.
    #[must_use]
    pub fn grace(mut self, grace_ms: u64, now_unix_ms: u64) -> Self {
        (self.grace_ms, self.now_unix_ms) = (grace_ms, now_unix_ms);
        self
    }
}

/// What a collection would do, or did.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct GarbageReport {
    /// Deleted snapshots that are gone for good.
    pub collected: Vec<Collected>,
    /// Snapshots that lost superseded files.
    pub trimmed: Vec<Trimmed>,
    /// Deleted snapshots that stay, and why.
    pub kept: Vec<KeptInTrash>,
    /// What could not be looked at or removed. It keeps nothing else.
    pub problems: Vec<GarbageProblem>,
    /// Bytes of blocks that are free again.
    pub freed_bytes: u64,
    /// Whether the reserve was given up to free space.
    pub reserve_was_used: bool,
}

/// A deleted snapshot that is gone for good.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct Collected {
    /// Which.
    pub id: SnapshotId,
    /// Its machine; `None` if its manifest was damaged.
    pub vm: Option<VmName>,
    /// Bytes of blocks that its files occupied.
    pub allocated_bytes: u64,
}

/// A snapshot that lost superseded files.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct Trimmed {
    /// Which.
    pub id: SnapshotId,
    /// The names of the files.
    pub files: Vec<String>,
    /// Bytes of blocks that they occupied.
    pub allocated_bytes: u64,
}

/// A deleted snapshot that stays.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct KeptInTrash {
    /// Which.
    pub id: SnapshotId,
    /// Why.
    pub reason: KeptReason,
}

/// Why a deleted snapshot stays.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "is", rename_all = "snake_case")]
#[non_exhaustive]
pub enum KeptReason {
    /// Others need its data.
    Needed {
        /// Which, live or deleted.
        by: Vec<SnapshotId>,
    },
    /// Another snapshot cannot be read: nobody knows whether it needs the data.
    Unknown {
        /// Which is to be repaired, or deleted.
        unreadable: SnapshotId,
    },
    /// Its grace has not passed.
    Grace {
        /// When it was first seen, in milliseconds since 1970.
        noted_unix_ms: u64,
    },
    /// Processes use it.
    InUse {
        /// Which, as far as the system tells.
        holders: Vec<u32>,
    },
    /// It could not be removed: see `problems`.
    Failed,
}

/// What could not be looked at or removed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct GarbageProblem {
    /// Of which snapshot.
    pub id: SnapshotId,
    /// What is wrong.
    pub problem: String,
}

impl GarbageReport {
    /// Whether all was done that could be, and nothing was in the way but what is needed or used.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.problems.is_empty()
    }

    pub(super) fn problem(&mut self, id: SnapshotId, problem: impl Into<String>) {
        let problem = problem.into();
        let found = GarbageProblem { id, problem };
        if !self.problems.contains(&found) {
            self.problems.push(found);
        }
    }
}
