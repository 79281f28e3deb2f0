//! For how long a deleted snapshot stays.

use serde::{Deserialize, Serialize};
use snapshot_format::SnapshotId;

use super::report::GarbageOptions;
use crate::checked_json;
use crate::directory::{self, Location};
use crate::error::StoreError;
use crate::file;
use crate::store::Store;

/// The version of `.noted-<id>` that this build writes.
const VERSION: u32 = 1;

/// When a deleted snapshot was first seen by a collection with a grace.
#[derive(Serialize, Deserialize)]
struct Sighting {
    version: u32,
    id: SnapshotId,
    noted_unix_ms: u64,
}

/// Since when `id` is on its way out, if its grace has not passed. One that was not seen yet is seen
/// now.
pub(super) fn pending(store: &Store, id: SnapshotId, options: &GarbageOptions) -> Option<u64> {
    if options.grace_ms == 0 {
        return None;
    }
    let noted = read(store, id).unwrap_or(options.now_unix_ms);
    // A time that is to come is none that has passed.
    let age = options.now_unix_ms.checked_sub(noted);
    let has_passed = age.is_some_and(|age| age >= options.grace_ms);
    (!has_passed).then_some(noted)
}

/// Notes that `id` was seen now, if that is not known. Where it fails the next collection does: the
/// snapshot stays longer.
pub(super) fn note(store: &Store, id: SnapshotId, options: &GarbageOptions) {
    if read(store, id).is_some() {
        return;
    }
    let noted = Sighting {
        version: VERSION,
        id,
        noted_unix_ms: options.now_unix_ms,
    };
    let written = checked_json::encode(&noted)
        .map_err(|source| StoreError::EncodeJson { source })
        .and_then(|bytes| {
            let folder = Location::Trash.directory();
            let (name, access) = (directory::noted_name(id), store.own_file_access());
            file::replace(store.backend(), &folder, &name, &bytes, access)
        });
    if let Err(error) = written {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(error, snapshot = %id, "its grace begins later");
    }
}

/// Forgets when `id` was seen.
pub(crate) fn forget(store: &Store, id: SnapshotId) -> Result<(), StoreError> {
    file::remove_if_there(store.backend(), &directory::noted(id))
}

fn read(store: &Store, id: SnapshotId) -> Option<u64> {
    let bytes = file::read(
        store.backend(),
        &directory::noted(id),
        checked_json::MAX_BYTES,
    )
    .ok()?;
    let noted: Sighting = checked_json::decode(&bytes, VERSION).ok()?;
    (noted.id == id).then_some(noted.noted_unix_ms)
}
