//! The checks of one snapshot.

use std::ops::ControlFlow;

use snapshot_format::{Digest, FileEntry, FileKind, SnapshotId, StateFile, limits};
use snapshot_memory::{DataFile, MemoryImage};

use crate::directory::Location;
use crate::error::StoreError;
use crate::file;
use crate::placed::Placed;
use crate::record;
use crate::store::Store;
use crate::verify::report::Findings;

/// Checks the snapshot at `location`.
pub(super) fn check(
    store: &Store,
    location: Location,
    id: SnapshotId,
    findings: &mut Findings<'_>,
) -> Result<(), StoreError> {
    let metadata = record::read_metadata(store.backend(), location, id);
    findings.sift(id, metadata)?;
    let placed = Placed::read(store.backend(), location, id);
    let Some(mut placed) = findings.sift(id, placed)? else {
        return Ok(());
    };
    for error in std::mem::take(&mut placed.passed_over) {
        findings.keep(id, error)?;
    }
    let parent = check_parent(store, &placed);
    findings.sift(id, parent)?;
    for entry in &placed.placement.files {
        if entry.kind == FileKind::MemoryMap || entry.kind == FileKind::MemoryData {
            continue;
        }
        let whole = check_whole_file(store, &placed, entry, findings);
        findings.sift(id, whole)?;
    }
    for entry in &placed.placement.files {
        if entry.kind == FileKind::MemoryData {
            let memory = check_memory(store, &placed, entry, findings);
            findings.sift(id, memory)?;
        }
    }
    let flattened = check_flattened(store, &placed, findings);
    findings.sift(id, flattened)?;
    Ok(())
}

/// The parent may be gone: it is history. If it is there, it must be the one that was named.
fn check_parent(store: &Store, placed: &Placed) -> Result<(), StoreError> {
    let Some(parent) = placed.manifest.parent else {
        return Ok(());
    };
    let Some(location) = store.whereabouts(parent.id)? else {
        return Ok(());
    };
    // A manifest that cannot be read is reported with the snapshot that it belongs to.
    match record::read_manifest(store.backend(), location, parent.id) {
        Ok((_, found)) if found != parent.digest => Err(StoreError::damaged(
            &placed.path(FileKind::Manifest, 0),
            format!(
                "its parent {} has digest {found}, and {} is named",
                parent.id, parent.digest
            ),
        )),
        _ => Ok(()),
    }
}

/// A file that is small enough to be read whole: length, digest, and that it decodes.
fn check_whole_file(
    store: &Store,
    placed: &Placed,
    entry: &FileEntry,
    findings: &mut Findings<'_>,
) -> Result<(), StoreError> {
    let path = placed.path(entry.kind, entry.index);
    let bytes = file::read(store.backend(), &path, limits::MAX_ENVELOPE_BYTES)?;
    let len = bytes.len() as u64;
    if len != entry.len_bytes {
        let problem = format!(
            "it has {len} bytes, and its placement says {}",
            entry.len_bytes
        );
        return Err(StoreError::damaged(&path, problem));
    }
    if entry.kind == FileKind::State {
        let state = StateFile::parse(&bytes).map_err(|error| StoreError::decode(&path, error))?;
        let parent = placed.manifest.parent.map(|parent| parent.id);
        if (state.id, state.parent) != (placed.manifest.id, parent) {
            return Err(StoreError::damaged(
                &path,
                "it is the state of another snapshot or another parent",
            ));
        }
    }
    let found = Digest::of(&bytes);
    if found != entry.digest {
        let problem = format!(
            "its digest is {found}, and its placement says {}",
            entry.digest
        );
        return Err(StoreError::damaged(&path, problem));
    }
    findings.checked(len)
}

/// A memory map and the data file that it describes.
fn check_memory(
    store: &Store,
    placed: &Placed,
    entry: &FileEntry,
    findings: &mut Findings<'_>,
) -> Result<(), StoreError> {
    let id = placed.manifest.id;
    let mut named = placed.placement.dependencies.iter().enumerate();
    let own = named.find(|(_, data)| data.snapshot == id && data.index == entry.index);
    let Some((place, data)) = own else {
        let path = placed.path(FileKind::MemoryData, entry.index);
        let problem = "its placement does not name it among the data files";
        return Err(StoreError::damaged(&path, problem));
    };
    let file = store.open_data_file(data)?;
    check_map(placed, entry, place, &file)?;
    let mut problems = Vec::new();
    let mut stopped = Ok(());
    file.check(&mut |error| problems.push(error), &mut |bytes| {
        stopped = findings.checked(bytes);
        match stopped {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    });
    for source in problems {
        findings.keep(id, StoreError::image(source))?;
    }
    stopped
}

/// What a map must agree on with the manifest and the placement.
fn check_map(
    placed: &Placed,
    data: &FileEntry,
    place: usize,
    file: &DataFile,
) -> Result<(), StoreError> {
    let path = placed.path(FileKind::MemoryMap, data.index);
    let root = file.root();
    let manifest = &placed.manifest;
    let entry = placed.placement.file(FileKind::MemoryMap, data.index);
    let problem = if (root.parent, &root.layout) != (manifest.parent, &manifest.layout) {
        "its parent or its memory layout are not those of the manifest"
    } else if usize::from(root.file) != place + 1 {
        "it names another place in the list of data files than the placement"
    } else if data.len_bytes != root.data_len_bytes {
        "it names another length of the data file than the placement"
    } else if entry.is_none_or(|entry| entry.digest != file.frame_digest()) {
        "its header and section table are not those that the placement names"
    } else {
        return Ok(());
    };
    Err(StoreError::damaged(&path, problem))
}

/// Every leaf of the flattened map, each in the map of the data file that it is named to be in.
fn check_flattened(
    store: &Store,
    placed: &Placed,
    findings: &mut Findings<'_>,
) -> Result<(), StoreError> {
    let id = placed.manifest.id;
    if placed.manifest.map_root.is_none() {
        return Ok(());
    }
    let mut files = Vec::new();
    for data in &placed.placement.dependencies {
        let file = store.open_data_file(data);
        files.extend(findings.sift(id, file)?);
    }
    if files.len() < placed.placement.dependencies.len() {
        return Ok(());
    }
    let (layout, table) = (&placed.manifest.layout, &placed.placement.flattened);
    let image =
        MemoryImage::new(layout.clone(), table.clone(), files).map_err(StoreError::image)?;
    for leaf in table.refs() {
        let owners = image.owner_leaf(leaf.number);
        findings.sift(id, owners.map_err(StoreError::image))?;
    }
    Ok(())
}
