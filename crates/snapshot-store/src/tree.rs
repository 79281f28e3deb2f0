//! Snapshots in the order of their descent.

use std::collections::BTreeMap;

use serde::Serialize;
use snapshot_format::SnapshotId;

use crate::forest::Forest;
use crate::record::{Listing, SnapshotRecord};

/// One line of a tree.
#[derive(Clone, Debug, Serialize)]
pub struct TreeEntry {
    /// How many ancestors of the snapshot are above it in this tree.
    pub depth: usize,
    /// Whether the parent, if there is one, is in this tree.
    pub parent: ParentLink,
    /// The snapshot.
    #[serde(flatten)]
    pub record: SnapshotRecord,
}

/// What became of a snapshot's parent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ParentLink {
    /// It never had one.
    None,
    /// It is above.
    Shown,
    /// It is not in this tree: deleted, damaged, or another machine's.
    Elsewhere,
}

impl Listing {
    /// Its snapshots in order: each before its children, siblings by sequence number.
    ///
    /// A link counts only where the digest fits, so that no set of files can make a circle of them.
    #[must_use]
    pub fn tree(&self) -> Vec<TreeEntry> {
        let forest = Forest::of(&self.snapshots);
        let known: BTreeMap<SnapshotId, &SnapshotRecord> = self
            .snapshots
            .iter()
            .map(|record| (record.id, record))
            .collect();
        let lines = forest.lines().into_iter();
        let entries = lines.filter_map(|(id, depth)| {
            let record = *known.get(&id)?;
            Some(TreeEntry {
                depth,
                parent: match (record.parent, forest.parent(id)) {
                    (None, _) => ParentLink::None,
                    (Some(_), Some(_)) => ParentLink::Shown,
                    (Some(_), None) => ParentLink::Elsewhere,
                },
                record: record.clone(),
            })
        });
        entries.collect()
    }
}
