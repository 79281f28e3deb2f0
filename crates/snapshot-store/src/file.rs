//! Small files: read whole, or replaced whole.

use std::io;

use snapshot_format::sabotage::Sabotage;
use snapshot_memory::backend::{Backend, FileAccess, RelPath};

use crate::directory;
use crate::error::StoreError;

/// Reads all of a file that has at most `max_bytes`.
pub(crate) fn read(
    backend: &dyn Backend,
    path: &RelPath,
    max_bytes: u64,
) -> Result<Vec<u8>, StoreError> {
    let failed = |source| StoreError::io("read", path, source);
    let file = match backend.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(StoreError::MissingFile { path: path.clone() });
        }
        result => result.map_err(failed)?,
    };
    let len = file.len().map_err(failed)?;
    let capacity = usize::try_from(len).ok().filter(|_| len <= max_bytes);
    let Some(capacity) = capacity else {
        let problem = format!("it has {len} bytes, and at most {max_bytes} are allowed");
        return Err(StoreError::damaged(path, problem));
    };
    let mut bytes = vec![0; capacity];
    match file.read_exact_at(0, &mut bytes) {
        Ok(()) => Ok(bytes),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            let problem = format!("it became shorter than {len} bytes while it was read");
            Err(StoreError::damaged(path, problem))
        }
        Err(error) => Err(failed(error)),
    }
}

/// Puts a file with these bytes in the place of `directory/name`, which need not exist. Where
/// `access` is given, it has that from the moment in which it has its name.
///
/// A crash leaves the old bytes or the new ones. The caller holds the lock that keeps others from
/// replacing the same file.
pub(crate) fn replace(
    backend: &dyn Backend,
    directory: &RelPath,
    name: &str,
    bytes: &[u8],
    access: Option<FileAccess>,
) -> Result<(), StoreError> {
    let target = directory::below(directory, name);
    let fresh = directory::below(directory, &directory::replacement_name(name));
    remove_if_there(backend, &fresh)?;
    let write = || {
        let mut file = backend.create(&fresh)?;
        file.write_all_at(0, bytes)?;
        match file.sync() {
            Err(_) if Sabotage::IgnoredFsyncError.is_on() => {}
            synced => synced?,
        }
        access.map_or(Ok(()), |access| backend.set_access(&fresh, access))
    };
    if let Err(error) = write().and_then(|()| backend.rename_replace(&fresh, &target)) {
        // A leftover is removed by the next replacement, so this one may fail.
        drop(backend.remove_file(&fresh));
        return Err(StoreError::io("replace", &target, error));
    }
    sync_dir(backend, directory).map_err(|source| StoreError::DurabilityUncertain {
        what: format!("the new {target}"),
        source,
    })
}

/// Makes the entries of a directory durable.
pub(crate) fn sync_dir(backend: &dyn Backend, path: &RelPath) -> io::Result<()> {
    if Sabotage::NoDirFsync.is_on() {
        return Ok(());
    }
    backend.sync_dir(path)
}

/// Removes a file, if it exists.
pub(crate) fn remove_if_there(backend: &dyn Backend, path: &RelPath) -> Result<(), StoreError> {
    match backend.remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StoreError::io("remove", path, error))
        }
        _ => Ok(()),
    }
}
