//! The data files that memory of a snapshot lies in, found again without its placement.
//!
//! A list of data files only grows along a chain, and consolidating cuts it to its beginning. So what
//! comes before a file of a snapshot stands in every placement that names the file, and at the
//! beginning of the list that its parent had when the snapshot was taken.

use std::collections::BTreeSet;

use snapshot_format::{DataFileRef, FileKind, LeafTable, Manifest, SnapshotRef};
use snapshot_memory::{DataFile, DataFileNames};

use super::rebuilt::entries;
use crate::directory::{self, Location};
use crate::error::StoreError;
use crate::placed::{self, Placed};
use crate::record;
use crate::store::Store;

/// Parents that are asked in turn.
const MAX_PARENTS: usize = 64;

/// The data files that memory lies in, and its flattened map.
pub(super) struct Chain {
    pub(super) files: Vec<DataFileRef>,
    pub(super) flattened: LeafTable,
}

impl Chain {
    /// The chain that ends in data file `index` of a snapshot. The map of every file of it is there.
    pub(super) fn of(store: &Store, manifest: &Manifest, index: u32) -> Result<Self, StoreError> {
        let own = DataFileRef {
            snapshot: manifest.id,
            index,
            map_root: entries(store, manifest.id, index)?.1.digest,
        };
        let files = Finding { store }.ending_in(manifest, own, MAX_PARENTS)?;
        let mut flattened = LeafTable::default();
        for (number, data) in (1..).zip(&files) {
            let file = open_for_map(store, data)?;
            if usize::from(file.root().file) != number {
                let path = directory::below(
                    &Location::Live.snapshot(data.snapshot),
                    &FileKind::MemoryMap.file_name(data.index),
                );
                let problem = format!("it is not data file {number} of a chain");
                return Err(StoreError::damaged(&path, problem));
            }
            flattened = flattened.overlaid(&file.root().owners);
        }
        Ok(Self { files, flattened })
    }
}

struct Finding<'s> {
    store: &'s Store,
}

impl Finding<'_> {
    /// The list that ends in `own`.
    fn ending_in(
        &self,
        manifest: &Manifest,
        own: DataFileRef,
        parents_left: usize,
    ) -> Result<Vec<DataFileRef>, StoreError> {
        let number = usize::from(open_for_map(self.store, &own)?.root().file);
        let count = number.saturating_sub(1);
        let mut list = match self.named_before(&own, count)? {
            _ if count == 0 => Vec::new(),
            Some(list) => list,
            None => {
                let mut of_parent = self.of_parent(manifest, parents_left)?;
                if of_parent.len() < count {
                    return Err(self.refused(manifest.id, "its parent needs fewer data files"));
                }
                of_parent.truncate(count);
                of_parent
            }
        };
        list.push(own);
        Ok(list)
    }

    /// What placements name before `own`, of whatever snapshot. They must agree.
    fn named_before(
        &self,
        own: &DataFileRef,
        count: usize,
    ) -> Result<Option<Vec<DataFileRef>>, StoreError> {
        let backend = self.store.backend();
        let mut lists: Vec<Vec<DataFileRef>> = Vec::new();
        for location in Location::SEARCH {
            for id in self.store.ids_at(location)? {
                for Placed { placement, .. } in placed::all_readable(backend, location, id)? {
                    let before = placement.dependencies.get(..count);
                    let is_named = placement.dependencies.get(count) == Some(own);
                    let list = before.filter(|_| is_named).map(<[_]>::to_vec);
                    lists.extend(list.filter(|list| !lists.contains(list)));
                }
            }
        }
        match lists.len() {
            0 | 1 => Ok(lists.pop()),
            _ => Err(self.refused(own.snapshot, "placements disagree on its data files")),
        }
    }

    /// The list that the parent of a snapshot had when the snapshot was taken: as long as the number
    /// of the first own file says.
    fn of_parent(
        &self,
        manifest: &Manifest,
        parents_left: usize,
    ) -> Result<Vec<DataFileRef>, StoreError> {
        let (Some(parent), Some(map_root)) = (manifest.parent, manifest.map_root) else {
            let problem = "its map needs data files of a parent, and it has none";
            return Err(self.refused(manifest.id, problem));
        };
        let Some(parents_left) = parents_left.checked_sub(1) else {
            return Err(self.refused(manifest.id, "too many parents have no placement either"));
        };
        let first = self.store.open_map(manifest.id, map_root)?;
        let count = usize::from(first.root().file).saturating_sub(1);
        let (location, of_parent, digest) = self.parent(parent)?;
        let backend = self.store.backend();
        let mut fitting: Vec<Vec<DataFileRef>> = Vec::new();
        for generation in placed::generations(backend, location, parent.id)? {
            let read = placed::read_generation(backend, location, &of_parent, digest, generation);
            fitting.extend(
                read.ok()
                    .map(|placement| placement.dependencies)
                    .filter(|list| list.len() == count),
            );
        }
        // Laid out anew, the parent has another file at the end of the same list.
        let owners =
            |list: &Vec<DataFileRef>| -> Vec<_> { list.iter().map(|data| data.snapshot).collect() };
        let distinct: BTreeSet<_> = fitting.iter().map(owners).collect();
        match (distinct.len(), fitting.pop()) {
            (1, Some(list)) => Ok(list),
            (0, _) => self.of_own_files(&of_parent, location, count, parents_left),
            _ => Err(self.refused(
                parent.id,
                "its placements do not say which data files its child needs",
            )),
        }
    }

    /// The list of so many files that ends in one of a snapshot's own, where no placement has it.
    fn of_own_files(
        &self,
        manifest: &Manifest,
        location: Location,
        count: usize,
        parents_left: usize,
    ) -> Result<Vec<DataFileRef>, StoreError> {
        for index in own_indexes(self.store, location, manifest)? {
            let own = DataFileRef {
                snapshot: manifest.id,
                index,
                map_root: entries(self.store, manifest.id, index)?.1.digest,
            };
            let number = usize::from(open_for_map(self.store, &own)?.root().file);
            if number == count {
                return self.ending_in(manifest, own, parents_left);
            }
        }
        let problem = "its placements do not say which data files its child needs";
        Err(self.refused(manifest.id, problem))
    }

    fn parent(
        &self,
        parent: SnapshotRef,
    ) -> Result<(Location, Manifest, snapshot_format::Digest), StoreError> {
        let location = self.store.whereabouts(parent.id)?;
        let location = location.ok_or_else(|| StoreError::MissingFile {
            path: Location::Live.snapshot(parent.id),
        })?;
        let read = record::read_manifest(self.store.backend(), location, parent.id)?;
        if read.1 != parent.digest {
            return Err(self.refused(parent.id, "it is not the parent that is named"));
        }
        Ok((location, read.0, read.1))
    }

    fn refused(&self, id: snapshot_format::SnapshotId, problem: &str) -> StoreError {
        let location = self.store.whereabouts(id).ok().flatten();
        let path = location.unwrap_or(Location::Live).snapshot(id);
        StoreError::damaged(&path, problem)
    }
}

/// The numbers of the memory files of a snapshot, the first one first.
pub(super) fn own_indexes(
    store: &Store,
    location: Location,
    manifest: &Manifest,
) -> Result<Vec<u32>, StoreError> {
    let there = placed::added_files(store.backend(), location, manifest.id)?;
    let maps = there
        .into_iter()
        .filter(|(kind, _)| *kind == FileKind::MemoryMap);
    let mut indexes: Vec<u32> = maps.map(|(_, index)| index).chain([0]).collect();
    indexes.sort_unstable();
    Ok(indexes)
}

/// A data file whose map is sound, whatever its data is.
fn open_for_map(store: &Store, own: &DataFileRef) -> Result<DataFile, StoreError> {
    let open = |kind| placed::open_file(store.backend(), own.snapshot, kind, own.index);
    let (map_path, map) = open(FileKind::MemoryMap)?;
    let names = DataFileNames {
        map: map_path.as_str().to_owned(),
        data: map_path.as_str().to_owned(),
    };
    DataFile::open_damaged(map, None, names, own).map_err(StoreError::image)
}
