//! Copies of damaged files, put aside before anything takes their place.

use std::io;

use snapshot_format::sabotage::Sabotage;
use snapshot_format::{PAGE_BYTES, SnapshotId};
use snapshot_memory::backend::{Backend, ReadFile, RelPath, WriteFile};

use crate::directory;
use crate::error::StoreError;
use crate::file;

/// Copies the file at `path`, as far as it can be read, to a new name in `quarantine/`, durably.
/// `None` if it is not there.
pub(super) fn copy(
    backend: &dyn Backend,
    id: SnapshotId,
    path: &RelPath,
) -> Result<Option<RelPath>, StoreError> {
    let source = match backend.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(|error| StoreError::io("open", path, error))?,
    };
    let target = make_room(backend, id, path)?;
    if Sabotage::NoCopyAside.is_on() {
        return Ok(Some(target));
    }
    let folder = directory::quarantine_directory();
    let fresh = directory::below(&folder, &directory::replacement_name(target.name()));
    file::remove_if_there(backend, &fresh)?;
    let written = fill(backend, &*source, &fresh).and_then(|()| {
        backend.rename_noreplace(&fresh, &target)?;
        file::sync_dir(backend, &folder)
    });
    written.map_err(|error| {
        // What remains is removed before the next copy of that name.
        drop(backend.remove_file(&fresh));
        StoreError::io("copy aside as", &target, error)
    })?;
    Ok(Some(target))
}

/// Moves a file that nobody names any more to a new name in `quarantine/`, durably.
pub(super) fn take_away(
    backend: &dyn Backend,
    id: SnapshotId,
    path: &RelPath,
) -> Result<RelPath, StoreError> {
    let target = make_room(backend, id, path)?;
    let failed = |error| StoreError::io("move aside as", &target, error);
    backend.rename_noreplace(path, &target).map_err(failed)?;
    file::sync_dir(backend, &directory::quarantine_directory()).map_err(failed)?;
    if let Some(folder) = path.parent() {
        file::sync_dir(backend, &folder).map_err(failed)?;
    }
    Ok(target)
}

/// A name in `quarantine/` that no file has: `<id>.<name>.<n>`.
fn make_room(backend: &dyn Backend, id: SnapshotId, path: &RelPath) -> Result<RelPath, StoreError> {
    let folder = directory::quarantine_directory();
    let failed = |error| StoreError::io("prepare", &folder, error);
    match backend.create_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => {
            made.map_err(failed)?;
            file::sync_dir(backend, &RelPath::root()).map_err(failed)?;
        }
    }
    let entries = backend.list(&folder).map_err(failed)?;
    let stem = format!("{id}.{}.", path.name());
    let taken = entries.iter().filter_map(|entry| {
        let number = entry.name.strip_prefix(stem.as_str())?;
        number.parse::<u64>().ok()
    });
    let free = taken.max().unwrap_or(0).saturating_add(1);
    Ok(directory::below(&folder, &format!("{stem}{free}")))
}

fn fill(backend: &dyn Backend, source: &dyn ReadFile, fresh: &RelPath) -> io::Result<()> {
    let len = source.len()?;
    let mut out = backend.create(fresh)?;
    out.set_len(len)?;
    let whole = len - len % PAGE_BYTES;
    if whole == 0 || !out.share(0, source, 0, whole).unwrap_or(false) {
        copy_data(source, out.as_mut(), 0, whole)?;
    }
    copy_data(source, out.as_mut(), whole, len)?;
    out.make_read_only()?;
    out.sync()
}

/// Copies what can be read from `from` to `to`; what cannot stays a hole.
fn copy_data(source: &dyn ReadFile, out: &mut dyn WriteFile, from: u64, to: u64) -> io::Result<()> {
    let mut buffer = vec![0; STEP];
    let mut at = from;
    while at < to {
        let next = source.next_data(at).ok().flatten();
        let (start, end) = match next {
            Some((start, end)) if start >= at && end > start => (start.min(to), end.min(to)),
            Some((start, _)) if start >= to => return Ok(()),
            _ => (at, to),
        };
        at = start;
        while at < end {
            let len = (end - at).min(STEP as u64);
            copy_step(source, out, at, len, &mut buffer)?;
            at += len;
        }
    }
    Ok(())
}

/// Copies one step at once, and page by page where that fails.
fn copy_step(
    source: &dyn ReadFile,
    out: &mut dyn WriteFile,
    at: u64,
    len: u64,
    buffer: &mut [u8],
) -> io::Result<()> {
    let (bytes, _) = buffer.split_at_mut(usize::try_from(len).unwrap_or(0));
    if source.read_exact_at(at, bytes).is_ok() {
        return out.write_all_at(at, bytes);
    }
    let pages = bytes.chunks_mut(usize::try_from(PAGE_BYTES).unwrap_or(1));
    for (offset, page) in (at..).step_by(4096).zip(pages) {
        if source.read_exact_at(offset, page).is_ok() {
            out.write_all_at(offset, page)?;
        }
    }
    Ok(())
}

/// Bytes that are copied at once.
const STEP: usize = 1 << 20;
