//! What is wrong with the memory of one data file.

use std::io;
use std::ops::ControlFlow;

use snapshot_format::{DataFileRef, FileEntry, FileKind, Operation};
use snapshot_memory::backend::RelPath;
use snapshot_memory::{DamagedUnit, DataFile, DataFileNames, ImageError};

use crate::directory;
use crate::error::StoreError;
use crate::placed::Placed;
use crate::store::Store;

/// A data file with damage, and a sound map.
#[derive(Debug)]
pub(super) struct DamagedData {
    pub(super) entry: FileEntry,
    pub(super) path: RelPath,
    pub(super) file: DataFile,
    /// The first thing found.
    pub(super) problem: String,
    /// What of it is no longer what was written. None, where only its length or bytes between units are.
    pub(super) units: Vec<DamagedUnit>,
}

/// What a look found.
#[derive(Debug)]
pub(super) enum Found {
    Sound,
    /// The map is damaged: nothing is known of the data.
    Map {
        path: RelPath,
        error: StoreError,
    },
    Data(Box<DamagedData>),
}

/// Checks one data file of a snapshot.
pub(super) fn look(
    store: &Store,
    placed: &Placed,
    entry: &FileEntry,
    tell: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<Found, StoreError> {
    let folder = placed.location.snapshot(placed.manifest.id);
    let below = |kind: FileKind| directory::below(&folder, &kind.file_name(entry.index));
    let (map_path, path) = (below(FileKind::MemoryMap), below(FileKind::MemoryData));
    let wanted = DataFileRef {
        snapshot: placed.manifest.id,
        index: entry.index,
        map_root: entry.digest,
    };
    let of_map = |error: StoreError| Found::Map {
        path: map_path.clone(),
        error,
    };
    let map = match store.backend().open(&map_path) {
        Ok(map) => map,
        Err(error) => return Ok(of_map(StoreError::io("open", &map_path, error))),
    };
    let data = match store.backend().open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        opened => Some(opened.map_err(|error| StoreError::io("open", &path, error))?),
    };
    let found_len = data.as_ref().map(|data| data.len()).transpose();
    let found_len = found_len.map_err(|error| StoreError::io("measure", &path, error))?;
    let names = DataFileNames {
        map: map_path.as_str().to_owned(),
        data: path.as_str().to_owned(),
    };
    let file = match DataFile::open_damaged(map, data, names, &wanted) {
        Ok(file) => file,
        Err(error) => return Ok(of_map(StoreError::image(error))),
    };
    file.allow(Operation::Rewrite).map_err(StoreError::image)?;
    let mut problem = length_problem(&path, found_len, file.root().data_len_bytes);
    let mut in_map = None;
    let mut stopped = false;
    let mut report = |error: ImageError| {
        if error.file() == Some(map_path.as_str()) {
            in_map.get_or_insert(error);
        } else {
            problem.get_or_insert_with(|| error.to_string());
        }
    };
    file.check(&mut report, &mut |bytes| {
        let told = tell(bytes);
        stopped |= told.is_break();
        told
    });
    if stopped {
        return Err(StoreError::Interrupted);
    }
    if let Some(error) = in_map {
        return Ok(of_map(StoreError::image(error)));
    }
    let Some(problem) = problem else {
        return Ok(Found::Sound);
    };
    let units = file.damaged_units(tell).map_err(StoreError::image)?;
    Ok(Found::Data(Box::new(DamagedData {
        entry: *entry,
        path,
        problem,
        units: units.ok_or(StoreError::Interrupted)?,
        file,
    })))
}

fn length_problem(path: &RelPath, found: Option<u64>, expected: u64) -> Option<String> {
    match found {
        None => Some(format!("{path} is missing")),
        Some(found) if found != expected => Some(format!(
            "{path} has {found} bytes where its map says {expected}"
        )),
        Some(_) => None,
    }
}
