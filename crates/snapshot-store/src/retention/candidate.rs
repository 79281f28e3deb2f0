//! What is decided about, and what it weighs.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use snapshot_format::{BranchName, LabelKey, LabelValue, SnapshotId, Tag};

use crate::error::Refusal;

/// A snapshot in use of the virtual machine that is decided about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// Which.
    pub id: SnapshotId,
    /// Its branch: each has rules of its own.
    pub branch: BranchName,
    /// Its place in the order of the machine's snapshots.
    pub seq: u64,
    /// When it was made, in milliseconds since 1970: which periods it is in.
    pub created_unix_ms: u64,
    /// The nearest ancestor that is a candidate too; deleted ones between them are passed over.
    pub parent: Option<SnapshotId>,
    /// Its tags.
    pub tags: BTreeSet<Tag>,
    /// Its labels.
    pub labels: BTreeMap<LabelKey, LabelValue>,
    /// What keeps it whatever a policy says, apart from being a head.
    pub holds: Vec<Hold>,
}

/// What keeps a snapshot whatever a policy says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "is", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Hold {
    /// It is marked as not to be deleted.
    Protected,
    /// Its `snapshot.json` is damaged, so that nobody knows whether it is marked.
    Unreadable,
    /// Processes use it.
    Leased {
        /// Which, as far as the system tells.
        holders: Vec<u32>,
    },
    /// Processes use a snapshot that needs its data.
    Needed {
        /// Which snapshot.
        by: SnapshotId,
        /// Which processes, as far as the system tells.
        holders: Vec<u32>,
    },
    /// The machine runs on it.
    Current,
    /// It is the newest of its branch, or what a branch without a snapshot begins at.
    Head,
}

impl From<Refusal> for Hold {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Protected => Self::Protected,
            Refusal::Unreadable => Self::Unreadable,
            Refusal::Current { .. } => Self::Current,
            Refusal::OnBranch { .. } => Self::Head,
            Refusal::Leased { holders } => Self::Leased { holders },
            Refusal::Needed { by, holders } => Self::Needed { by, holders },
        }
    }
}

/// Blocks on disk, and who needs them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Extent {
    /// The snapshot in whose directory they are; deleted, perhaps.
    pub owner: SnapshotId,
    /// How many bytes of blocks.
    pub bytes: u64,
    /// The snapshots in use that need them, of whatever machine.
    pub needed_by: BTreeSet<SnapshotId>,
}
