//! Where the index of a store lies.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use snapshot_format::SnapshotId;
use snapshot_memory::backend::{Backend, FsBackend};

/// The directory of the index of the store `id` at `path`: the store itself where it is this user's,
/// on a local file system, and can be written to; else below the user's directory for caches.
pub(crate) fn of(path: &Path, id: SnapshotId, is_writable: bool) -> io::Result<Option<PathBuf>> {
    let is_own = fs::metadata(path)?.uid() == nix::unistd::geteuid().as_raw();
    if is_own && is_writable && !FsBackend::open(path)?.file_system()?.is_network {
        return Ok(Some(path.to_owned()));
    }
    Ok(caches().map(|caches| caches.join("vmsnap").join(id.to_string())))
}

/// The user's directory for caches, if there is one.
fn caches() -> Option<PathBuf> {
    let named = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let caches = named.filter(|path| path.is_absolute()).or_else(home)?;
    caches.is_dir().then_some(caches)
}
