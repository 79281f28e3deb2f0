//! Which snapshots name data of which: the mark of a collection.

use std::collections::{BTreeMap, BTreeSet};

use snapshot_format::SnapshotId;
use snapshot_format::sabotage::Sabotage;

use crate::directory::Location;
use crate::error::StoreError;
use crate::placed;
use crate::record;
use crate::store::Store;

/// What every placement of every snapshot names, of any generation.
///
/// A placement never changes, so each is read once, however often the directories are looked at.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// What placements name of others, each by its snapshot and generation.
    read: BTreeMap<(SnapshotId, u32), BTreeSet<DataFile>>,
    /// Where each snapshot was when the directories were looked at last, and its generations.
    places: BTreeMap<SnapshotId, (Location, Vec<u32>)>,
    /// Who names a data file, apart from its owner.
    named: BTreeMap<DataFile, BTreeSet<SnapshotId>>,
    /// Snapshots of which a placement cannot be read: they may name anything.
    unreadable: BTreeMap<SnapshotId, String>,
}

/// The owner of a data file, and its index there.
type DataFile = (SnapshotId, u32);

impl Marks {
    /// Looks at the directories anew. What the commit lock does not keep may have changed before this
    /// returns.
    pub(super) fn refresh(&mut self, store: &Store) -> Result<(), StoreError> {
        self.places.clear();
        self.named.clear();
        self.unreadable.clear();
        for location in Location::SEARCH {
            for id in store.ids_at(location)? {
                match placed::generations(store.backend(), location, id) {
                    Ok(generations) => {
                        self.places.insert(id, (location, generations));
                    }
                    // Moved since the directory was read.
                    Err(_) if !store.exists_at(location, id)? => {}
                    Err(error) => return Err(error),
                }
            }
        }
        let ids: BTreeSet<SnapshotId> = self.places.keys().copied().collect();
        self.read.retain(|(id, _), _| ids.contains(id));
        for id in ids {
            if let Err(error) = self.read_all(store, id) {
                self.unreadable.insert(id, error.to_string());
            }
        }
        for ((by, _), files) in &self.read {
            for file in files {
                self.named.entry(*file).or_default().insert(*by);
            }
        }
        Ok(())
    }

    /// Reads the placements of a snapshot that are not known, and forgets those that are gone.
    fn read_all(&mut self, store: &Store, id: SnapshotId) -> Result<(), StoreError> {
        let Some((location, generations)) = self.places.get(&id).cloned() else {
            return Ok(());
        };
        self.read
            .retain(|(of, generation), _| *of != id || generations.contains(generation));
        if generations.is_empty() {
            let path = location.snapshot(id);
            return Err(StoreError::damaged(&path, "it has no placement"));
        }
        let is_known = |generation: &u32| self.read.contains_key(&(id, *generation));
        if generations.iter().all(is_known) {
            return Ok(());
        }
        let backend = store.backend();
        // What asks for more than this build knows may need what this build does not see.
        store.allow_gc(location, id)?;
        let (manifest, digest) = record::read_manifest(backend, location, id)?;
        for generation in generations {
            let placement =
                placed::read_generation(backend, location, &manifest, digest, generation)?;
            let others = placement.dependencies.iter();
            let others = others.filter(|data| data.snapshot != id);
            let names = others.map(|data| (data.snapshot, data.index)).collect();
            self.read.insert((id, generation), names);
        }
        Ok(())
    }

    /// The deleted snapshots.
    pub(super) fn deleted(&self) -> impl Iterator<Item = SnapshotId> {
        let places = self.places.iter();
        places
            .filter(|(_, (location, _))| *location == Location::Trash)
            .map(|(id, _)| *id)
    }

    /// Every snapshot, with where it is and its generations, the highest first.
    pub(super) fn all(&self) -> impl Iterator<Item = (SnapshotId, Location, &[u32])> {
        let places = self.places.iter();
        places.map(|(id, (location, generations))| (*id, *location, generations.as_slice()))
    }

    /// The other snapshots, live or deleted, that name data of `id`.
    pub(super) fn naming(&self, id: SnapshotId) -> BTreeSet<SnapshotId> {
        if Sabotage::UnmarkedBase.is_on() {
            return BTreeSet::new();
        }
        let files = self.named.range((id, 0)..=(id, u32::MAX));
        files.flat_map(|(_, by)| by).copied().collect()
    }

    /// Whether another snapshot names this data file, or may.
    pub(super) fn is_named(&self, id: SnapshotId, index: u32) -> bool {
        self.named.contains_key(&(id, index)) || self.unreadable_beside(id).is_some()
    }

    /// A snapshot other than `id` that may name anything, and why it cannot be read.
    pub(super) fn unreadable_beside(&self, id: SnapshotId) -> Option<(SnapshotId, &str)> {
        let mut others = self.unreadable.iter().filter(|(other, _)| **other != id);
        others
            .next()
            .map(|(other, problem)| (*other, problem.as_str()))
    }

    /// Every snapshot that may name anything, and why it cannot be read.
    pub(super) fn unreadable(&self) -> impl Iterator<Item = (SnapshotId, &str)> {
        let all = self.unreadable.iter();
        all.map(|(id, problem)| (*id, problem.as_str()))
    }

    /// Whether nothing keeps a deleted snapshot from being collected.
    pub(super) fn is_free(&self, id: SnapshotId) -> bool {
        let place = self.places.get(&id);
        place.is_some_and(|(location, _)| *location == Location::Trash)
            && self.naming(id).is_empty()
            && self.unreadable_beside(id).is_none()
    }
}
