//! What manifests say, each read once while a store is open.
//!
//! A manifest never changes, and no id is ever given to another snapshot. So what was read once holds
//! for as long as the directory of that id is there, which is looked at each time: what is decided by it
//! is decided by the directories, and by manifests that were read from them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use snapshot_format::{BranchName, SnapshotId, VmName};

use crate::directory::Location;
use crate::error::StoreError;
use crate::record;
use crate::store::Store;

/// What a manifest says of whose snapshot it is.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) id: SnapshotId,
    pub(crate) vm: VmName,
    pub(crate) seq: u64,
    pub(crate) branch: BranchName,
}

/// The manifests that were read.
#[derive(Debug, Default)]
pub(crate) struct KnownManifests {
    facts: Mutex<BTreeMap<SnapshotId, Arc<Facts>>>,
}

/// The snapshots of a machine that are there.
#[derive(Debug, Default)]
pub(crate) struct OfMachine {
    /// Those in use.
    pub(crate) live: Vec<Arc<Facts>>,
    /// Those that were deleted.
    pub(crate) deleted: Vec<Arc<Facts>>,
}

impl Store {
    /// The snapshots of `vm` that are there and whose manifests can be read.
    ///
    /// The directories are listed, and of what is not known yet the manifests are read.
    pub(crate) fn machine(&self, vm: &VmName) -> Result<OfMachine, StoreError> {
        let live = self.ids_at(Location::Live)?;
        let deleted = self.ids_at(Location::Trash)?;
        let known = self.known_manifests();
        known.forget_all_but(&live, &deleted);
        let find = |location, ids: Vec<SnapshotId>| {
            let facts = ids.into_iter();
            let facts = facts.filter_map(|id| known.find(self, location, id));
            facts
                .filter(|facts| facts.vm.key() == vm.key())
                .collect::<Vec<_>>()
        };
        Ok(OfMachine {
            live: find(Location::Live, live),
            deleted: find(Location::Trash, deleted),
        })
    }
}

impl OfMachine {
    /// All of them, those in use first.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Facts> {
        let all = self.live.iter().chain(&self.deleted);
        all.map(AsRef::as_ref)
    }
}

impl KnownManifests {
    /// What the manifest of a snapshot says; nothing where it cannot be read, which is tried again the
    /// next time.
    fn find(&self, store: &Store, location: Location, id: SnapshotId) -> Option<Arc<Facts>> {
        if let Some(facts) = self.lock().get(&id) {
            return Some(Arc::clone(facts));
        }
        let read = record::read_manifest(store.backend(), location, id);
        // It may have moved to the trash since it was listed.
        let read = read.or_else(|error| match store.whereabouts(id) {
            Ok(Some(now)) if now != location => record::read_manifest(store.backend(), now, id),
            _ => Err(error),
        });
        let (manifest, _) = read.ok()?;
        let facts = Arc::new(Facts {
            id,
            vm: manifest.vm,
            seq: manifest.seq,
            branch: manifest.branch,
        });
        self.lock().insert(id, Arc::clone(&facts));
        Some(facts)
    }

    /// Forgets what is gone.
    fn forget_all_but(&self, live: &[SnapshotId], deleted: &[SnapshotId]) {
        let there: BTreeSet<_> = live.iter().chain(deleted).collect();
        self.lock().retain(|id, _| there.contains(id));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SnapshotId, Arc<Facts>>> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
