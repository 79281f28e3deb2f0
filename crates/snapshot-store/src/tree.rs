//! Snapshots in the order of their descent.

use std::collections::{BTreeSet, HashMap};

use serde::Serialize;
use snapshot_format::SnapshotRef;

use crate::record::SnapshotRecord;

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

/// Sets `records` in order: each before its children, siblings by sequence number.
///
/// A link counts only where the digest fits, so that no set of files can make a circle of them.
pub(crate) fn grow(records: &[SnapshotRecord]) -> Vec<TreeEntry> {
    let known: HashMap<SnapshotRef, usize> = records
        .iter()
        .enumerate()
        .map(|(at, record)| (record.reference(), at))
        .collect();
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); records.len()];
    let mut roots = Vec::new();
    for (at, record) in records.iter().enumerate() {
        match record.parent.and_then(|parent| known.get(&parent)) {
            Some(&parent) if parent != at => {
                if let Some(siblings) = children.get_mut(parent) {
                    siblings.push(at);
                }
            }
            _ => roots.push(at),
        }
    }
    let order = |at: &usize| records.get(*at).map(|record| (record.vm.key(), record.seq));
    for siblings in children.iter_mut().chain([&mut roots]) {
        siblings.sort_by_key(order);
    }

    let mut entries = Vec::with_capacity(records.len());
    let mut shown = BTreeSet::new();
    let mut open: Vec<(usize, usize)> = roots.iter().rev().map(|&at| (at, 0)).collect();
    while let Some((at, depth)) = open.pop() {
        let Some(record) = records.get(at).filter(|_| shown.insert(at)) else {
            continue;
        };
        entries.push(TreeEntry {
            depth,
            parent: match record.parent {
                None => ParentLink::None,
                Some(_) if depth > 0 => ParentLink::Shown,
                Some(_) => ParentLink::Elsewhere,
            },
            record: record.clone(),
        });
        let below = children.get(at).map_or(&[][..], Vec::as_slice);
        open.extend(below.iter().rev().map(|&child| (child, depth + 1)));
    }
    entries
}
