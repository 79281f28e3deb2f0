//! Changing what people attach to a snapshot.

use snapshot_format::SnapshotId;

use crate::directory::{self, Location};
use crate::error::StoreError;
use crate::file;
use crate::metadata::Metadata;
use crate::store::Store;
use crate::vm;

impl Store {
    /// Changes name, description, labels, tags or protection of a snapshot in use.
    ///
    /// `change` is given what can be read: of a damaged `snapshot.json` nothing but the
    /// protection that is then assumed.
    pub fn change_metadata(
        &self,
        id: SnapshotId,
        change: impl FnOnce(&mut Metadata),
    ) -> Result<Metadata, StoreError> {
        self.begin_write()?;
        let vm = self.snapshot(id)?.vm;
        let _vm = self.lock_vm(&vm)?;
        let _commit = self.lock_exclusively(&directory::commit_lock())?;
        let before = self.snapshot(id)?.metadata;
        let mut after = before.clone();
        change(&mut after);
        if let Some(name) = &after.name {
            vm::check_name_is_free(self, &vm, name, Some(id))?;
        }
        let bytes = after.encode(id)?;
        let target = Location::Live.snapshot(id);
        let (name, access) = (directory::METADATA_FILE, self.own_file_access());
        file::replace(self.backend(), &target, name, &bytes, access)?;
        Ok(after)
    }
}
