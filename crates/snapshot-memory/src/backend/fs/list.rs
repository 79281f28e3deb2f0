//! The entries of a directory.

use std::io;
use std::os::fd::OwnedFd;

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::fstatat;

use super::file_type;
use crate::backend::{Entry, EntryKind, path};

/// The entries of `dir`, sorted by name; those that no path can name are left out.
pub(super) fn entries(dir: OwnedFd) -> io::Result<Vec<Entry>> {
    let mut dir = Dir::from_fd(dir)?;
    let mut names = Vec::new();
    for entry in dir.iter() {
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else {
            continue;
        };
        if path::is_component(name) {
            names.push((name.to_owned(), entry.file_type()));
        }
    }
    let mut entries = Vec::with_capacity(names.len());
    for (name, kind) in names {
        let kind = match kind {
            Some(Type::File) => EntryKind::File,
            Some(Type::Directory) => EntryKind::Directory,
            Some(_) => EntryKind::Other,
            // Some file systems keep no type in the directory.
            None => match fstatat(&dir, name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
                Ok(stat) => file_type(stat.st_mode),
                Err(Errno::ENOENT) => continue,
                Err(error) => return Err(error.into()),
            },
        };
        entries.push(Entry { name, kind });
    }
    entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}
