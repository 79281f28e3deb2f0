//! Where snapshots stand whose manifests are lost.

use std::collections::BTreeMap;

use serde::Serialize;
use snapshot_format::{FileKind, SnapshotId};
use snapshot_memory::MapFile;
use snapshot_memory::backend::RelPath;

use crate::directory;
use crate::forest::Forest;
use crate::placed;
use crate::record::{DamagedSnapshot, Listing};
use crate::store::Store;

/// A snapshot without a manifest that can be read, and what others say of its place.
///
/// It is told to people. Nothing is decided by it, as no manifest proves it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct LostSnapshot {
    /// The name of its directory.
    pub id: SnapshotId,
    /// What is wrong with its manifest.
    pub problem: String,
    /// The parent that a memory map of it names, whether that is there or not. `None` where it had
    /// none, or no map can be read.
    pub parent: Option<SnapshotId>,
    /// The snapshots of the listing that name it as their parent, in its order.
    pub children: Vec<SnapshotId>,
}

impl Store {
    /// What is known of the place of each damaged snapshot of a listing.
    #[must_use]
    pub fn lost(&self, listing: &Listing) -> Vec<LostSnapshot> {
        let place = |damaged: &DamagedSnapshot| {
            let records = listing.snapshots.iter();
            let children = records.filter(|record| {
                let parent = record.parent.map(|parent| parent.id);
                parent == Some(damaged.id)
            });
            LostSnapshot {
                id: damaged.id,
                problem: damaged.problem.clone(),
                parent: self.named_by_a_map(damaged),
                children: children.map(|record| record.id).collect(),
            }
        };
        listing.damaged.iter().map(place).collect()
    }

    /// The parent that a map of the snapshot names. A map of another snapshot says nothing.
    fn named_by_a_map(&self, damaged: &DamagedSnapshot) -> Option<SnapshotId> {
        let folder = damaged.location.snapshot(damaged.id);
        let path = |index| directory::below(&folder, &FileKind::MemoryMap.file_name(index));
        // The first may have been given back after the pages were placed anew.
        let added = placed::added_files(self.backend(), damaged.location, damaged.id);
        let added = added.unwrap_or_default().into_iter();
        let added =
            added.filter_map(|(kind, index)| (kind == FileKind::MemoryMap).then_some(index));
        let roots = [0].into_iter().chain(added).filter_map(|index| {
            let root = self.root_of(&path(index))?;
            (root.0 == damaged.id).then_some(root.1)
        });
        roots.flatten().next()
    }

    /// Whose map this is, and which parent it names.
    fn root_of(&self, path: &RelPath) -> Option<(SnapshotId, Option<SnapshotId>)> {
        let map = self.backend().open(path).ok()?;
        let found = MapFile::look(map, path.as_str().to_owned()).ok()?;
        let root = found.map.root();
        Some((root.id, root.parent.map(|parent| parent.id)))
    }
}

impl Forest {
    /// The forest of a listing with the places of lost snapshots in it, for a picture: links to and
    /// from these are not proved by digests. A lost one stands before the first of its children, and
    /// behind all others where it has none.
    #[must_use]
    pub fn with_lost(listing: &Listing, lost: &[LostSnapshot]) -> Self {
        let proved = Self::of(&listing.snapshots);
        let below = |one: &LostSnapshot| {
            let children = one.children.clone().into_iter();
            let id = one.id;
            children.map(move |child| (child, id))
        };
        let below: BTreeMap<SnapshotId, SnapshotId> = lost.iter().flat_map(below).collect();
        let lines = proved.lines().into_iter();
        let links =
            lines.map(|(id, _)| (id, below.get(&id).copied().or_else(|| proved.parent(id))));
        let mut links: Vec<_> = links.collect();
        for one in lost {
            let first = links.iter().position(|(id, _)| one.children.contains(id));
            links.insert(first.unwrap_or(links.len()), (one.id, one.parent));
        }
        Self::new(links)
    }
}
