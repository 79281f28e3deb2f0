//! Who may read what a store publishes.

use std::io;

use serde::{Deserialize, Serialize};
use snapshot_format::SnapshotId;
use snapshot_memory::backend::{Entry, EntryKind, FileAccess, RelPath};

use crate::checked_json;
use crate::directory::{self, Location};
use crate::error::StoreError;
use crate::file;
use crate::store::Store;

/// Who may read what a store publishes: its owner alone, unless this says otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct ReadAccess {
    /// Whose it is: the owner of the store's directory, or where `None` whoever publishes it.
    pub owner: Option<u32>,
    /// Which group it has; `None`: that of whoever publishes it.
    pub group: Option<u32>,
    /// The permission bits of a file: read bits, the owner's among them.
    pub mode: u32,
}

/// The content of `access.json`.
#[derive(Serialize, Deserialize)]
struct Body {
    version: u32,
    owner: Option<u32>,
    group: Option<u32>,
    mode: u32,
}

/// The version of `access.json` that this build writes.
const VERSION: u32 = 1;

/// Read for the owner, the group and all others.
const READ_BITS: u32 = 0o444;
const OWNER_READS: u32 = 0o400;
const OWNER_WRITES: u32 = 0o200;

impl Default for ReadAccess {
    fn default() -> Self {
        Self {
            owner: None,
            group: None,
            mode: OWNER_READS,
        }
    }
}

impl ReadAccess {
    /// Checks the bits: what is published is never written to.
    pub fn new(owner: Option<u32>, group: Option<u32>, mode: u32) -> Result<Self, StoreError> {
        if mode & !READ_BITS != 0 || mode & OWNER_READS == 0 {
            return Err(StoreError::InvalidText {
                text: format!("{mode:04o}"),
                what: "mode of published files: read bits, the owner's among them",
            });
        }
        Ok(Self { owner, group, mode })
    }

    const fn with(self, mode: u32) -> FileAccess {
        FileAccess {
            owner: self.owner,
            group: self.group,
            mode,
        }
    }

    /// A file that is never changed.
    const fn file(self) -> FileAccess {
        self.with(self.mode)
    }

    /// A file that its owner replaces.
    const fn own_file(self) -> FileAccess {
        self.with(self.mode | OWNER_WRITES)
    }

    /// A directory that its owner changes.
    const fn directory(self) -> FileAccess {
        let search = (self.mode & READ_BITS) >> 2;
        self.with(self.mode | search | OWNER_WRITES)
    }

    /// The file `name` of a snapshot.
    fn of(self, name: &str) -> FileAccess {
        if name == directory::METADATA_FILE {
            self.own_file()
        } else {
            self.file()
        }
    }
}

impl Store {
    /// Who may read what this store publishes. What cannot be read says nothing: then its owner
    /// alone may.
    pub fn read_access(&self) -> ReadAccess {
        self.given_access().unwrap_or_default()
    }

    /// Says who may read what is published from now on; with `published` also what is already,
    /// deleted snapshots included.
    pub fn set_read_access(&self, access: ReadAccess, published: bool) -> Result<(), StoreError> {
        self.begin_write()?;
        let known = self.backend().owner();
        if access.owner.is_some() && access.owner != known {
            return Err(StoreError::InvalidText {
                text: access
                    .owner
                    .map(|owner| owner.to_string())
                    .unwrap_or_default(),
                what: "owner of the store's directory, whom alone every reader takes files from",
            });
        }
        let _commit = self.lock_exclusively(&directory::commit_lock())?;
        let body = Body {
            version: VERSION,
            owner: access.owner,
            group: access.group,
            mode: access.mode,
        };
        let bytes = checked_json::encode(&body);
        let bytes = bytes.map_err(|source| StoreError::EncodeJson { source })?;
        let (root, own) = (RelPath::root(), Some(access.own_file()));
        file::replace(self.backend(), &root, directory::ACCESS_FILE, &bytes, own)?;
        self.give(&directory::store_file(), access.own_file())?;
        self.give(&root, access.directory())?;
        let (vms, verified) = (directory::vm_directory(), directory::verified_directory());
        let has_checks = self.is_directory(&verified)?;
        for folder in [Some(&vms), has_checks.then_some(&verified)] {
            let Some(folder) = folder else { continue };
            for entry in self.entries(folder)? {
                self.give(&directory::below(folder, &entry.name), access.own_file())?;
            }
        }
        if has_checks {
            self.give(&verified, access.directory())?;
        }
        for path in directory::readable() {
            self.give(&path, access.directory())?;
        }
        if published {
            for location in Location::SEARCH {
                for id in self.ids_at(location)? {
                    self.give_all(&location.snapshot(id), access)?;
                    self.give(&location.snapshot(id), access.directory())?;
                }
            }
        }
        Ok(())
    }

    /// Gives a staged snapshot the access that is set, if any is, before it gets its name.
    pub(crate) fn give_stage(&self, id: SnapshotId) -> Result<(), StoreError> {
        let Some(access) = self.given_access() else {
            return Ok(());
        };
        let stage = directory::stage(id);
        self.give_all(&stage, access)?;
        self.give(&stage, access.directory())
    }

    /// The same of the files of a new placement.
    pub(crate) fn give_placing(&self, id: SnapshotId) -> Result<(), StoreError> {
        match self.given_access() {
            Some(access) => self.give_all(&directory::placing(id), access),
            None => Ok(()),
        }
    }

    /// The same of a directory that was made after the store.
    pub(crate) fn give_directory(&self, path: &RelPath) -> Result<(), StoreError> {
        match self.given_access() {
            Some(access) => self.give(path, access.directory()),
            None => Ok(()),
        }
    }

    /// What a file gets that is replaced now and then, if anything is set.
    pub(crate) fn own_file_access(&self) -> Option<FileAccess> {
        self.given_access().map(ReadAccess::own_file)
    }

    /// What `access.json` says; `None` where there is none that can be read.
    fn given_access(&self) -> Option<ReadAccess> {
        let path = directory::below(&RelPath::root(), directory::ACCESS_FILE);
        let bytes = file::read(self.backend(), &path, checked_json::MAX_BYTES).ok()?;
        let body: Body = checked_json::decode(&bytes, VERSION).ok()?;
        ReadAccess::new(body.owner, body.group, body.mode).ok()
    }

    /// Gives every file of a directory its access.
    fn give_all(&self, folder: &RelPath, access: ReadAccess) -> Result<(), StoreError> {
        for entry in self.entries(folder)? {
            self.give(
                &directory::below(folder, &entry.name),
                access.of(&entry.name),
            )?;
        }
        Ok(())
    }

    pub(crate) fn is_directory(&self, path: &RelPath) -> Result<bool, StoreError> {
        match self.backend().metadata(path) {
            Ok(found) => Ok(found.kind == EntryKind::Directory),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(StoreError::io("look at", path, error)),
        }
    }

    /// The files of a directory.
    fn entries(&self, folder: &RelPath) -> Result<Vec<Entry>, StoreError> {
        let entries = self.backend().list(folder);
        let mut entries = entries.map_err(|error| StoreError::io("list", folder, error))?;
        entries.retain(|entry| entry.kind == EntryKind::File);
        Ok(entries)
    }

    fn give(&self, path: &RelPath, access: FileAccess) -> Result<(), StoreError> {
        let given = self.backend().set_access(path, access);
        given.map_err(|error| StoreError::io("set the access of", path, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // spec: ACC-01
    #[test]
    fn modes_have_read_bits_alone_and_directories_follow_them() {
        for mode in [0, 0o044, 0o600, 0o500, 0o4400, 0o640, 0o1444] {
            ReadAccess::new(None, None, mode).unwrap_err();
        }
        for (mode, folder, own) in [
            (0o400, 0o700, 0o600),
            (0o440, 0o750, 0o640),
            (0o444, 0o755, 0o644),
            (0o404, 0o705, 0o604),
        ] {
            let access = ReadAccess::new(Some(1), Some(2), mode).unwrap();
            let told = [access.file(), access.directory(), access.own_file()];
            assert_eq!(
                told.map(|given| given.mode),
                [mode, folder, own],
                "{mode:o}"
            );
            assert_eq!((told[0].owner, told[0].group), (Some(1), Some(2)));
        }
    }
}
