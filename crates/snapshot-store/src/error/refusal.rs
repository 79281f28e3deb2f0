//! Why something that could be done is not.

use std::fmt;

use snapshot_format::{BranchName, SnapshotId};

use super::listed::Holders;

/// Why a snapshot may not be deleted, or not be used as was asked for.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Refusal {
    /// It is marked so.
    Protected,
    /// Its `snapshot.json` is damaged, so that nobody knows whether it is marked.
    Unreadable,
    /// Its machine is on the branch that it is the head of.
    Current {
        /// The branch.
        branch: BranchName,
    },
    /// It was taken on the branch that is to be removed, and stays on it.
    OnBranch {
        /// The branch.
        branch: BranchName,
    },
    /// Processes read it, or write a child of it.
    Leased {
        /// Which, as far as the system tells.
        holders: Vec<u32>,
    },
    /// Processes read a snapshot that needs its data, or write a child of that.
    Needed {
        /// Which snapshot.
        by: SnapshotId,
        /// Which processes, as far as the system tells.
        holders: Vec<u32>,
    },
}

impl Refusal {
    /// What to do about it.
    pub(super) const fn hint(&self) -> &'static str {
        match self {
            Self::Protected => "take the protection away first",
            Self::Unreadable => "write its metadata anew first",
            Self::Current { .. } => "switch the machine to another branch first",
            Self::OnBranch { .. } => "delete the snapshots of the branch first",
            Self::Leased { .. } | Self::Needed { .. } => {
                "wait until those processes are done with it"
            }
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Protected => f.write_str("protected"),
            Self::Unreadable => f.write_str("taken for protected, as its snapshot.json is damaged"),
            Self::Current { branch } => {
                write!(f, "the head of branch {branch}, which its machine is on")
            }
            Self::OnBranch { branch } => write!(f, "on branch {branch} for good"),
            Self::Leased { holders } => write!(f, "in use, {}", Holders(holders)),
            Self::Needed { by, holders } => {
                write!(
                    f,
                    "needed by snapshot {by}, which is in use, {}",
                    Holders(holders)
                )
            }
        }
    }
}
