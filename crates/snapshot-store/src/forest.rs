//! Who descends from whom.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use snapshot_format::{SnapshotId, SnapshotRef};

use crate::record::SnapshotRecord;

/// Snapshots, and those links between them that count.
///
/// Every walk ends, whatever links it was made of: of a circle, one link counts as none.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Forest {
    nodes: BTreeMap<SnapshotId, Node>,
    roots: Vec<SnapshotId>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Node {
    parent: Option<SnapshotId>,
    children: Vec<SnapshotId>,
}

impl Forest {
    /// The forest of `records`, ordered by machine and sequence number.
    ///
    /// A link counts where the parent is among them and has the digest that the child names.
    #[must_use]
    pub fn of(records: &[SnapshotRecord]) -> Self {
        let known: BTreeMap<SnapshotId, SnapshotRef> = records
            .iter()
            .map(|record| (record.id, record.reference()))
            .collect();
        let mut ordered: Vec<&SnapshotRecord> = records.iter().collect();
        ordered.sort_by_cached_key(|record| (record.vm.key(), record.seq, record.id));
        Self::new(ordered.into_iter().map(|record| {
            let named = record.parent;
            let counts = named.filter(|parent| known.get(&parent.id) == Some(parent));
            (record.id, counts.map(|parent| parent.id))
        }))
    }

    /// The forest of snapshots and their parents, in the order that is given. A parent that is not
    /// among them counts as none, and so does all but the first link of a snapshot.
    #[must_use]
    pub fn new(links: impl IntoIterator<Item = (SnapshotId, Option<SnapshotId>)>) -> Self {
        let mut order = Vec::new();
        let mut nodes = BTreeMap::new();
        for (id, parent) in links {
            if let Entry::Vacant(place) = nodes.entry(id) {
                place.insert(Node {
                    parent,
                    children: Vec::new(),
                });
                order.push(id);
            }
        }
        let known: BTreeSet<SnapshotId> = nodes.keys().copied().collect();
        for node in nodes.values_mut() {
            node.parent = node.parent.filter(|parent| known.contains(parent));
        }
        let mut forest = Self {
            nodes,
            roots: Vec::new(),
        };
        forest.cut_circles(&order);
        for id in order {
            let parent = forest.parent(id);
            match parent.and_then(|parent| forest.nodes.get_mut(&parent)) {
                Some(parent) => parent.children.push(id),
                None => forest.roots.push(id),
            }
        }
        forest
    }

    /// Takes one link out of each circle.
    fn cut_circles(&mut self, order: &[SnapshotId]) {
        let mut ends: BTreeSet<SnapshotId> = BTreeSet::new();
        for &start in order {
            let mut walked = BTreeSet::new();
            let mut at = start;
            while !ends.contains(&at) {
                if !walked.insert(at) {
                    if let Some(node) = self.nodes.get_mut(&at) {
                        node.parent = None;
                    }
                    break;
                }
                match self.parent(at) {
                    Some(parent) => at = parent,
                    None => break,
                }
            }
            ends.append(&mut walked);
        }
    }

    /// Whether a snapshot is among them.
    #[must_use]
    pub fn contains(&self, id: SnapshotId) -> bool {
        self.nodes.contains_key(&id)
    }

    /// How many snapshots there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Those without a parent among them, in order.
    #[must_use]
    pub fn roots(&self) -> &[SnapshotId] {
        &self.roots
    }

    /// The parent, if it is among them.
    #[must_use]
    pub fn parent(&self, id: SnapshotId) -> Option<SnapshotId> {
        self.nodes.get(&id)?.parent
    }

    /// The children, in order.
    #[must_use]
    pub fn children(&self, id: SnapshotId) -> &[SnapshotId] {
        self.nodes.get(&id).map_or(&[], |node| &node.children)
    }

    /// The snapshot, its parent, and so on to a root; nothing where it is not among them.
    #[must_use]
    pub fn path(&self, id: SnapshotId) -> Vec<SnapshotId> {
        let first = self.contains(id).then_some(id);
        std::iter::successors(first, |&at| self.parent(at)).collect()
    }

    /// All on whose path the snapshot is, without itself, each before its children.
    #[must_use]
    pub fn descendants(&self, id: SnapshotId) -> Vec<SnapshotId> {
        let below = self.walk(self.children(id));
        below.into_iter().map(|(id, _)| id).collect()
    }

    /// The first snapshot that is on the paths of both.
    #[must_use]
    pub fn common_ancestor(&self, one: SnapshotId, other: SnapshotId) -> Option<SnapshotId> {
        let of_other: BTreeSet<SnapshotId> = self.path(other).into_iter().collect();
        let mut path = self.path(one).into_iter();
        path.find(|id| of_other.contains(id))
    }

    /// Whether `ancestor` is on the path of `id`, which begins with `id` itself.
    #[must_use]
    pub fn is_on_path(&self, ancestor: SnapshotId, id: SnapshotId) -> bool {
        self.path(id).contains(&ancestor)
    }

    /// All of them, each before its children, with the number of its ancestors.
    #[must_use]
    pub fn lines(&self) -> Vec<(SnapshotId, usize)> {
        self.walk(&self.roots)
    }

    /// `starts` and all below them, with how far below.
    fn walk(&self, starts: &[SnapshotId]) -> Vec<(SnapshotId, usize)> {
        let mut walked = Vec::new();
        let mut open: Vec<(SnapshotId, usize)> = starts.iter().rev().map(|&id| (id, 0)).collect();
        while let Some((id, depth)) = open.pop() {
            walked.push((id, depth));
            let below = self.children(id).iter().rev();
            open.extend(below.map(|&child| (child, depth + 1)));
        }
        walked
    }
}

#[cfg(test)]
mod tests;
