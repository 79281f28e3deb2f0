//! Which snapshots there are, and which one is meant.

use std::io;

use snapshot_format::{SnapshotId, VmName};
use snapshot_memory::backend::EntryKind;

use crate::directory::Location;
use crate::error::StoreError;
use crate::record::{DamagedSnapshot, Listing, SnapshotRecord};
use crate::reference::Reference;
use crate::store::Store;
use crate::tree::TreeEntry;
use crate::vm;

impl Store {
    /// The snapshots in use, of one virtual machine or of all.
    ///
    /// A damaged snapshot does not say whose it is: it is listed whatever `vm` is.
    pub fn list(&self, vm: Option<&VmName>) -> Result<Listing, StoreError> {
        self.list_at(Location::Live, vm)
    }

    /// The deleted snapshots.
    pub fn trash(&self) -> Result<Listing, StoreError> {
        self.list_at(Location::Trash, None)
    }

    /// The snapshots of one virtual machine or of all, each before its children.
    pub fn tree(&self, vm: Option<&VmName>) -> Result<Vec<TreeEntry>, StoreError> {
        Ok(self.list(vm)?.tree())
    }

    /// What is known of a snapshot in use.
    pub fn snapshot(&self, id: SnapshotId) -> Result<SnapshotRecord, StoreError> {
        self.record_at(Location::Live, id)
    }

    /// Which snapshot in use is meant.
    pub fn resolve(&self, reference: &Reference) -> Result<SnapshotId, StoreError> {
        self.resolve_at(Location::Live, reference)
    }

    /// Which deleted snapshot is meant.
    pub fn resolve_in_trash(&self, reference: &Reference) -> Result<SnapshotId, StoreError> {
        self.resolve_at(Location::Trash, reference)
    }

    pub(crate) fn record_at(
        &self,
        location: Location,
        id: SnapshotId,
    ) -> Result<SnapshotRecord, StoreError> {
        if !self.exists_at(location, id)? {
            return Err(missing(&Reference::Id(id), location));
        }
        SnapshotRecord::read(self.backend(), location, id)
    }

    pub(crate) fn exists_at(&self, location: Location, id: SnapshotId) -> Result<bool, StoreError> {
        let path = location.snapshot(id);
        match self.backend().metadata(&path) {
            Ok(found) => Ok(found.kind == EntryKind::Directory),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(StoreError::io("look at", &path, error)),
        }
    }

    /// The ids of all directories at `location`, whatever is in them.
    pub(crate) fn ids_at(&self, location: Location) -> Result<Vec<SnapshotId>, StoreError> {
        let path = location.directory();
        let entries = self
            .backend()
            .list(&path)
            .map_err(|error| StoreError::io("list", &path, error))?;
        let directories = entries.iter().filter(|e| e.kind == EntryKind::Directory);
        Ok(directories.filter_map(|e| e.name.parse().ok()).collect())
    }

    pub(crate) fn list_at(
        &self,
        location: Location,
        vm: Option<&VmName>,
    ) -> Result<Listing, StoreError> {
        let mut listing = Listing::default();
        for id in self.ids_at(location)? {
            match SnapshotRecord::read(self.backend(), location, id) {
                Ok(record) if vm.is_none_or(|vm| vm.key() == record.vm.key()) => {
                    listing.snapshots.push(record);
                }
                Ok(_) => {}
                // Deleted or brought back since the directory was read.
                Err(_) if !self.exists_at(location, id)? => {}
                Err(error) => listing
                    .damaged
                    .push(DamagedSnapshot::new(id, location, &error)),
            }
        }
        listing
            .snapshots
            .sort_by_cached_key(|record| (record.vm.key(), record.seq, record.id));
        Ok(listing)
    }

    fn resolve_at(
        &self,
        location: Location,
        reference: &Reference,
    ) -> Result<SnapshotId, StoreError> {
        let found = match reference {
            Reference::Id(id) => self.exists_at(location, *id)?.then_some(*id),
            Reference::Part(part) => self.resolve_part(location, part)?,
            Reference::Named { vm, name } => {
                let named = |record: &&SnapshotRecord| record.is_named(name);
                let listing = self.list_at(location, Some(vm))?;
                // In the trash a name may occur more than once: the last one deleted is not
                // known, the newest is.
                listing.snapshots.iter().rfind(named).map(|r| r.id)
            }
            Reference::Latest { vm } => {
                let listing = self.list_at(location, Some(vm))?;
                self.check_heads(vm, &listing)?;
                listing.snapshots.last().map(|record| record.id)
            }
        };
        found.ok_or_else(|| missing(reference, location))
    }

    /// Fails if a branch of `vm` is known to end in a snapshot that cannot be read: the last one
    /// that can be read is not the latest.
    fn check_heads(&self, vm: &VmName, listing: &Listing) -> Result<(), StoreError> {
        if listing.damaged.is_empty() {
            return Ok(());
        }
        let heads = vm::read(self, vm)?
            .map(|file| file.heads)
            .unwrap_or_default();
        let is_head = |damaged: &&DamagedSnapshot| heads.values().any(|head| *head == damaged.id);
        match listing.damaged.iter().find(is_head) {
            None => Ok(()),
            Some(head) => Err(StoreError::damaged(
                &head.location.snapshot(head.id),
                format!("it may be the latest snapshot of VM {vm}: {}", head.problem),
            )),
        }
    }

    fn resolve_part(
        &self,
        location: Location,
        part: &str,
    ) -> Result<Option<SnapshotId>, StoreError> {
        let mut meant: Vec<SnapshotId> = Vec::new();
        for id in self.ids_at(location)? {
            let text = id.to_string();
            if text.starts_with(part) || text.ends_with(part) {
                meant.push(id);
            }
        }
        match meant.as_slice() {
            [] => Ok(None),
            [id] => Ok(Some(*id)),
            _ => Err(StoreError::Ambiguous {
                text: part.to_owned(),
                candidates: meant,
            }),
        }
    }
}

fn missing(reference: &Reference, location: Location) -> StoreError {
    let what = match (reference, location) {
        (Reference::Latest { vm }, Location::Live) => format!("a snapshot of VM {vm}"),
        (_, Location::Live) => format!("snapshot {reference}"),
        (_, Location::Trash) => format!("deleted snapshot {reference}"),
    };
    StoreError::NotFound { what }
}
