//! Blocks that are given up when freeing space needs some.

use std::io;

use crate::directory;
use crate::error::{ErrorKind, StoreError};
use crate::file;
use crate::store::Store;

/// Bytes of the reserve: more than the largest placement.
const RESERVE_BYTES: u64 = 1 << 20;

/// Bytes that must be free for a reserve to be made.
const ROOM_BYTES: u64 = 64 << 20;

/// Makes the reserve where there is none and room for it. Without one, all works until the disk is
/// full to the last block, so that a failure is none of the collection.
pub(super) fn make(store: &Store) {
    let path = directory::reserve_file();
    let backend = store.backend();
    let is_there = backend.metadata(&path).is_ok();
    if is_there || !backend.free_bytes().is_ok_and(|free| free >= ROOM_BYTES) {
        return;
    }
    let write = || -> io::Result<()> {
        let mut file = backend.create(&path)?;
        file.reserve(RESERVE_BYTES)?;
        file.sync()
    };
    if let Err(error) = write() {
        tracing::warn!(%error, "there is no reserve");
        drop(backend.remove_file(&path));
    }
}

/// Runs `work`; where there is no space for it, gives the reserve up and runs it once more.
pub(super) fn with_reserve<T>(
    store: &Store,
    was_used: &mut bool,
    work: &mut dyn FnMut() -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let result = work();
    let lacks_space = matches!(&result, Err(error) if error.kind() == ErrorKind::NoSpace);
    if !lacks_space || *was_used {
        return result;
    }
    let path = directory::reserve_file();
    if store.backend().metadata(&path).is_err() {
        return result;
    }
    file::remove_if_there(store.backend(), &path)?;
    *was_used = true;
    work()
}
