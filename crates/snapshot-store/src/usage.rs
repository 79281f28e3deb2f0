//! How much space snapshots take, and which need each other's data.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use serde::Serialize;
use snapshot_format::{Operation, SnapshotId, VmName};
use snapshot_memory::backend::{EntryKind, Metadata, RelPath};

use crate::directory::{self, Location};
use crate::error::StoreError;
use crate::feature;
use crate::placed::{self, Placed};
use crate::record;
use crate::store::Store;

/// The space that one snapshot takes.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct SnapshotUsage {
    /// Which.
    pub id: SnapshotId,
    /// Its machine; `None` if its manifest is damaged.
    pub vm: Option<VmName>,
    /// Whether it is in use or deleted.
    pub location: Location,
    /// Bytes in its files, holes included.
    pub len_bytes: u64,
    /// Bytes of blocks that its files occupy.
    pub allocated_bytes: u64,
    /// How many other snapshots in use need its data. With 0, a deleted one takes space only
    /// until garbage is collected.
    pub needed_by: usize,
}

/// The space that a file of the cache takes.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct CachedUsage {
    /// The file, below the root of the store.
    pub file: String,
    /// Whose memory it is or is going to be; `None` if it is no materialised image.
    pub id: Option<SnapshotId>,
    /// Its bytes, holes included.
    pub len_bytes: u64,
    /// Bytes of blocks that it occupies. Those that it shares with data files count here and there.
    pub allocated_bytes: u64,
}

/// The space that a store takes.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Usage {
    /// Every snapshot, deleted ones included.
    pub snapshots: Vec<SnapshotUsage>,
    /// Every file of the cache: dropping an image frees what it does not share.
    pub cached: Vec<CachedUsage>,
    /// Bytes of blocks that snapshots in use occupy.
    pub live_bytes: u64,
    /// Bytes of blocks that deleted snapshots occupy.
    pub trash_bytes: u64,
    /// The part of `trash_bytes` that snapshots in use need.
    pub trash_needed_bytes: u64,
    /// Bytes of blocks that the files of the cache occupy.
    pub cache_bytes: u64,
    /// Bytes that are free on the file system.
    pub free_bytes: u64,
}

impl Store {
    /// The space that the snapshots take.
    pub fn usage(&self) -> Result<Usage, StoreError> {
        let needed = self.needed_by_others()?;
        let cached = self.cached_files()?;
        let free = self.backend().free_bytes();
        let mut usage = Usage {
            snapshots: Vec::new(),
            cache_bytes: cached.iter().map(|file| file.allocated_bytes).sum(),
            cached,
            live_bytes: 0,
            trash_bytes: 0,
            trash_needed_bytes: 0,
            free_bytes: free.map_err(|error| {
                StoreError::io("ask for free space of", &RelPath::root(), error)
            })?,
        };
        for location in Location::SEARCH {
            for id in self.ids_at(location)? {
                let (len_bytes, allocated_bytes) = self.size_of(location, id)?;
                let needed_by = needed.get(&id).map_or(0, BTreeSet::len);
                match location {
                    Location::Live => usage.live_bytes += allocated_bytes,
                    Location::Trash => usage.trash_bytes += allocated_bytes,
                }
                if location == Location::Trash && needed_by > 0 {
                    usage.trash_needed_bytes += allocated_bytes;
                }
                let manifest = record::read_manifest(self.backend(), location, id);
                usage.snapshots.push(SnapshotUsage {
                    id,
                    vm: manifest.ok().map(|(manifest, _)| manifest.vm),
                    location,
                    len_bytes,
                    allocated_bytes,
                    needed_by,
                });
            }
        }
        Ok(usage)
    }

    /// The other snapshots in use whose placement names data of `id`.
    pub(crate) fn dependents(&self, id: SnapshotId) -> Result<Vec<SnapshotId>, StoreError> {
        let mut needed = self.needed_by_others()?;
        Ok(needed.remove(&id).into_iter().flatten().collect())
    }

    /// The other snapshots, deleted ones included, of which any placement names data of `id`, not
    /// only the one that counts. Where one cannot be read, it may be among them, and so it is.
    pub(crate) fn others_that_need(&self, id: SnapshotId) -> Result<Vec<SnapshotId>, StoreError> {
        let mut found = Vec::new();
        for location in Location::SEARCH {
            let others = self.ids_at(location)?.into_iter();
            let others = others.filter(|other| *other != id);
            found.extend(others.filter(|&other| {
                let needs = self.names_data_of(location, other, id);
                needs.unwrap_or(true)
            }));
        }
        Ok(found)
    }

    /// Whether any placement of `other` names data of `id`. One with features for collecting that
    /// this build does not know is an error, as one that cannot be read.
    fn names_data_of(
        &self,
        location: Location,
        other: SnapshotId,
        id: SnapshotId,
    ) -> Result<bool, StoreError> {
        let (backend, mut names) = (self.backend(), false);
        let (manifest, digest) = record::read_manifest(backend, location, other)?;
        for generation in placed::generations(backend, location, other)? {
            let placement =
                placed::read_generation(backend, location, &manifest, digest, generation)?;
            let path = directory::below(&location.snapshot(other), &placement.file_name());
            feature::allow(&path, placement.features, Operation::Gc)?;
            let mut data = placement.dependencies.iter();
            names |= data.any(|data| data.snapshot == id);
        }
        Ok(names)
    }

    /// Bytes of blocks that the files of a snapshot occupy.
    pub fn allocated_bytes(&self, location: Location, id: SnapshotId) -> Result<u64, StoreError> {
        Ok(self.size_of(location, id)?.1)
    }

    /// For each snapshot, the others in use that need its data. What cannot be read needs nothing.
    fn needed_by_others(&self) -> Result<BTreeMap<SnapshotId, BTreeSet<SnapshotId>>, StoreError> {
        let mut needed: BTreeMap<SnapshotId, BTreeSet<SnapshotId>> = BTreeMap::new();
        for id in self.ids_at(Location::Live)? {
            let Ok(placed) = Placed::read(self.backend(), Location::Live, id) else {
                continue;
            };
            for other in placed.closure() {
                if other != id {
                    needed.entry(other).or_default().insert(id);
                }
            }
        }
        Ok(needed)
    }

    /// Every file of the cache.
    fn cached_files(&self) -> Result<Vec<CachedUsage>, StoreError> {
        let folder = directory::cache_directory();
        if let Err(error) = self.backend().metadata(&folder)
            && error.kind() == io::ErrorKind::NotFound
        {
            return Ok(Vec::new());
        }
        let mut cached = Vec::new();
        self.each_file(&folder, &mut |name, found| {
            cached.push(CachedUsage {
                file: directory::below(&folder, name).as_str().to_owned(),
                id: directory::cached_id(name).map(|(id, _)| id),
                len_bytes: found.len_bytes,
                allocated_bytes: found.allocated_bytes,
            });
        })?;
        Ok(cached)
    }

    /// Length and allocated bytes of all files of a snapshot.
    fn size_of(&self, location: Location, id: SnapshotId) -> Result<(u64, u64), StoreError> {
        let (mut len, mut allocated) = (0_u64, 0_u64);
        self.each_file(&location.snapshot(id), &mut |_, found| {
            len = len.saturating_add(found.len_bytes);
            allocated = allocated.saturating_add(found.allocated_bytes);
        })?;
        Ok((len, allocated))
    }

    /// Every regular file of a directory that is still there when it is looked at.
    pub(crate) fn each_file(
        &self,
        path: &RelPath,
        each: &mut dyn FnMut(&str, Metadata),
    ) -> Result<(), StoreError> {
        let entries = self.backend().list(path);
        let entries = entries.map_err(|error| StoreError::io("list", path, error))?;
        for entry in entries.iter().filter(|e| e.kind == EntryKind::File) {
            let file = directory::below(path, &entry.name);
            match self.backend().metadata(&file) {
                Ok(found) => each(&entry.name, found),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(StoreError::io("look at", &file, error)),
            }
        }
        Ok(())
    }
}
