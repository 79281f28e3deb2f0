//! What is to become of each snapshot, and why.

use std::num::NonZeroU32;

use serde::Serialize;
use snapshot_format::{BranchName, LabelKey, LabelValue, SnapshotId, Tag};

use super::{Age, Hold, Period, ZoneName};

/// What a policy makes of the snapshots of a machine.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct RetentionPlan {
    /// The zone of all periods.
    pub zone: ZoneName,
    /// One for each snapshot, by sequence number.
    pub decisions: Vec<Decision>,
    /// Caps that holds, or what others need, keep from being met.
    pub unmet: Vec<UnmetCap>,
    /// Blocks of the files that the snapshots of the machine need, in bytes.
    pub bytes_before: u64,
    /// The same once what is removed has been collected.
    pub bytes_after: u64,
}

/// What becomes of one snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct Decision {
    /// Which.
    pub id: SnapshotId,
    /// Its branch.
    pub branch: BranchName,
    /// Its sequence number.
    pub seq: u64,
    /// When it was made, in milliseconds since 1970.
    pub created_unix_ms: u64,
    /// Kept or removed.
    pub action: Action,
    /// Why.
    pub reasons: Vec<Reason>,
    /// Of one that a cap takes, why it would have been kept.
    pub overruled: Vec<Reason>,
    /// Of one that is removed, the kept snapshots that need its data: until they do not, it stays
    /// in the trash as a hidden base.
    pub hidden_base_of: Vec<SnapshotId>,
}

/// Kept or removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It stays in use.
    Keep,
    /// It goes to the trash.
    Remove,
}

/// Why a snapshot is kept or removed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "is", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// Kept whatever the policy says.
    Hold {
        /// Why.
        hold: Hold,
    },
    /// Kept as one of the last ones.
    Last {
        /// Which of them, the newest is 1.
        number: u32,
        /// How many the rule keeps.
        count: NonZeroU32,
    },
    /// Kept as the newest of a period.
    Every {
        /// Which sort of period.
        period: Period,
        /// Which of them, the latest is 1.
        number: u32,
        /// The name of it.
        name: String,
    },
    /// Kept as not being older.
    Within {
        /// Than this, before the head of its branch.
        span: Age,
    },
    /// Kept for a tag.
    Tag {
        /// Which.
        tag: Tag,
    },
    /// Kept for a label.
    Label {
        /// Which.
        key: LabelKey,
        /// Its value.
        value: LabelValue,
    },
    /// Kept as the policy has caps alone.
    NoRules,
    /// Removed, as no rule keeps it.
    NoRule,
    /// Removed, as it is older than the policy allows.
    TooOld {
        /// What is allowed, before the head of its branch.
        max_age: Age,
    },
    /// Removed, as a path has more snapshots than the policy allows.
    TooDeep {
        /// How many are allowed.
        max_depth: NonZeroU32,
    },
    /// Removed, to free blocks.
    TooManyBytes {
        /// How many are allowed.
        max_bytes: u64,
        /// How many are free once it has been collected.
        freed_bytes: u64,
    },
}

/// A cap that is not met by what may be removed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct UnmetCap {
    /// Which, and what was reached.
    #[serde(flatten)]
    pub cap: Exceeded,
    /// What stands in the way.
    pub standing: Vec<Standing>,
}

/// A cap and what was reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "cap", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Exceeded {
    /// Snapshots are older.
    MaxAge {
        /// Than this.
        limit: Age,
    },
    /// A path has more kept snapshots.
    MaxDepth {
        /// Than this.
        limit: NonZeroU32,
        /// How many.
        reached: u32,
    },
    /// The kept snapshots need more blocks.
    MaxBytes {
        /// Than these bytes.
        limit: u64,
        /// How many bytes.
        reached: u64,
    },
}

/// A snapshot that a cap cannot take.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct Standing {
    /// Which.
    pub id: SnapshotId,
    /// What holds it.
    pub holds: Vec<Hold>,
    /// The kept snapshots that need its data: removing it frees nothing.
    pub needed_by: Vec<SnapshotId>,
}

impl RetentionPlan {
    /// The snapshots that are to be removed, in the order that leaves the same plan for the rest
    /// wherever it is broken off.
    ///
    /// First those that no rule keeps, the newest first; then those that caps take, the oldest
    /// first. The other way round, a rule would find an older one in the place of what a cap took.
    pub fn removals(&self) -> impl Iterator<Item = &Decision> {
        let removed = |decision: &&Decision| decision.action == Action::Remove;
        let is_unwanted = |decision: &&Decision| decision.reasons == [Reason::NoRule];
        let all = self.decisions.iter().filter(removed);
        let capped = all.clone().filter(move |decision| !is_unwanted(decision));
        all.rev().filter(is_unwanted).chain(capped)
    }

    /// What is decided of one.
    #[must_use]
    pub fn decision(&self, id: SnapshotId) -> Option<&Decision> {
        self.decisions.iter().find(|decision| decision.id == id)
    }
}
