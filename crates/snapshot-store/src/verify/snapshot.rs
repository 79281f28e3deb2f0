//! The checks of one snapshot.

use std::collections::BTreeMap;

use snapshot_format::{
    DataFileRef, Digest, FileEntry, FileKind, OwnerLeaf, Part, SnapshotId, StateFile, limits,
};

use crate::directory::Location;
use crate::error::StoreError;
use crate::file;
use crate::placed::{self, Placed};
use crate::record;
use crate::store::Store;
use crate::verify::data_file;
use crate::verify::map_file::MapFile;
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
    data: &FileEntry,
    findings: &mut Findings<'_>,
) -> Result<(), StoreError> {
    let id = placed.manifest.id;
    let path = placed.path(FileKind::MemoryMap, data.index);
    let Some(entry) = placed.placement.file(FileKind::MemoryMap, data.index) else {
        return Err(StoreError::MissingFile { path });
    };
    let map = MapFile::open(store.backend(), &path, data.digest)?;
    map.check_frame(entry, findings)?;
    let root = &map.root;
    let manifest = &placed.manifest;
    if root.id != id || root.parent != manifest.parent || root.layout != manifest.layout {
        return Err(StoreError::damaged(
            &path,
            "id, parent or memory layout are not those of the manifest",
        ));
    }
    let number = usize::from(root.file).checked_sub(1);
    let named = number.and_then(|number| placed.placement.dependencies.get(number));
    if named.is_none_or(|named| named.snapshot != id || named.index != data.index) {
        return Err(StoreError::damaged(
            &path,
            "it does not know its own place in the list of data files",
        ));
    }
    let mut leaves = Vec::with_capacity(root.index.len());
    for leaf in root.index.refs() {
        let parsed = map.index_leaf(leaf);
        leaves.extend(findings.sift(id, parsed)?);
    }
    for leaf in root.owners.refs() {
        let parsed = map.owner_leaf(leaf);
        findings.sift(id, parsed)?;
    }
    let data_path = placed.path(FileKind::MemoryData, data.index);
    data_file::check(
        store.backend(),
        id,
        &data_path,
        data.len_bytes,
        root,
        &leaves,
        findings,
    )
}

/// Every leaf of the flattened map, each in the map of the data file that it is named to be in.
fn check_flattened(
    store: &Store,
    placed: &Placed,
    findings: &mut Findings<'_>,
) -> Result<(), StoreError> {
    let id = placed.manifest.id;
    let dependencies = &placed.placement.dependencies;
    let mut maps: BTreeMap<u16, Option<MapFile>> = BTreeMap::new();
    for (number, data) in (1_u16..).zip(dependencies) {
        let map = open_dependency(store, data);
        let map = findings.sift(id, map)?;
        maps.insert(number, map);
    }
    let max_owner = u16::try_from(dependencies.len()).unwrap_or(u16::MAX);
    let path = placed.path(FileKind::Placement, placed.placement.generation);
    for leaf in placed.placement.flattened.refs() {
        let map = match maps.get(&leaf.file) {
            Some(Some(map)) => map,
            // Missing or damaged: reported above.
            Some(None) => continue,
            None => {
                let problem = format!("leaf {} is said to be in no data file", leaf.number);
                findings.damaged(id, &path, problem);
                continue;
            }
        };
        let checked = map.read_leaf(leaf).and_then(|bytes| {
            leaf.verify(&bytes, Part::OwnerLeaf(leaf.number))
                .and_then(|()| OwnerLeaf::parse(&bytes, leaf.number, max_owner))
                .map_err(|error| StoreError::decode(&map.path, error))
        });
        findings.sift(id, checked)?;
    }
    Ok(())
}

/// The map of a data file that is needed; its data file must be there too.
fn open_dependency(store: &Store, data: &DataFileRef) -> Result<MapFile, StoreError> {
    let backend = store.backend();
    placed::open_file(backend, data.snapshot, FileKind::MemoryData, data.index)?;
    let (path, _) = placed::open_file(backend, data.snapshot, FileKind::MemoryMap, data.index)?;
    let map = MapFile::open(backend, &path, data.map_root)?;
    if map.root.id == data.snapshot {
        Ok(map)
    } else {
        let problem = format!("it is the map of snapshot {}", map.root.id);
        Err(StoreError::damaged(&path, problem))
    }
}
