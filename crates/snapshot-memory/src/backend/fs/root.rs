//! The directory that a backend is rooted at: the one path that comes from the user.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use snapshot_format::sabotage::Sabotage;

/// Opens the directory `path`. Links on the way are the user's own and are followed.
pub(super) fn open(path: &Path) -> io::Result<OwnedFd> {
    let dir = fs::OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_DIRECTORY.bits())
        .open(path)?;
    Ok(dir.into())
}

/// Makes the directory `path` and its missing ancestors, and makes their entries durable,
/// bottom-up, so that no crash leaves a durable child below an entry that vanished.
pub(super) fn create(path: &Path) -> io::Result<()> {
    let mut missing: Vec<PathBuf> = Vec::new();
    let mut at = path;
    while !at.as_os_str().is_empty() && !at.try_exists()? {
        missing.push(at.to_owned());
        match at.parent() {
            Some(parent) => at = parent,
            None => break,
        }
    }
    for dir in missing.iter().rev() {
        match fs::DirBuilder::new().mode(0o700).create(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    for dir in &missing {
        sync(dir)?;
        match dir.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => sync(parent)?,
            _ => sync(Path::new("."))?,
        }
    }
    Ok(())
}

fn sync(dir: &Path) -> io::Result<()> {
    if Sabotage::NoDirFsync.is_on() {
        return Ok(());
    }
    File::open(dir)?.sync_all()
}
