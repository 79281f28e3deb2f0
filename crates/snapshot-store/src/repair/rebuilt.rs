//! A placement made again from what it named.

use std::collections::BTreeSet;

use snapshot_format::{DataFileRef, Digest, FileEntry, FileKind, Manifest, Placement, SnapshotId};
use snapshot_memory::{DataFile, DataFileNames, MapFile};

use crate::directory::{self, Location};
use crate::error::StoreError;
use crate::file;
use crate::placed::{self, Placed};
use crate::store::Store;

/// `before` with every memory file of the snapshot that lies beside those it names: a placement
/// that is lost may have named it, and children may need it. All of them must be sound.
pub(super) fn with_all_files(
    store: &Store,
    location: Location,
    manifest: &Manifest,
    before: &Placement,
) -> Result<Placement, StoreError> {
    let mut after = before.clone();
    let Some(map_root) = manifest.map_root else {
        return Ok(after);
    };
    let there = placed::added_files(store.backend(), location, manifest.id)?;
    let maps = there
        .iter()
        .filter(|(kind, _)| *kind == FileKind::MemoryMap);
    for &(kind, index) in maps {
        if before.file(kind, index).is_some() {
            continue;
        }
        let (map, data) = entries(store, manifest.id, index)?;
        let reference = DataFileRef {
            snapshot: manifest.id,
            index,
            map_root: data.digest,
        };
        let first = store.open_map(manifest.id, map_root)?;
        let file = store.open_data_file(&reference)?;
        file.check_same_root(&first).map_err(StoreError::image)?;
        after.files.extend([map, data]);
    }
    after
        .files
        .sort_by_key(|file| (file.kind.number(), file.index));
    Ok(after)
}

/// The first placement of a snapshot, from its manifest, its map and the placements of its parent.
///
/// It is refused where these leave a choice: the owners in its map are numbers of a list that must
/// be the parent's.
pub(super) fn from_manifest(
    store: &Store,
    location: Location,
    manifest: &Manifest,
    digest: Digest,
) -> Result<Placement, StoreError> {
    let id = manifest.id;
    let folder = location.snapshot(id);
    let path = |kind: FileKind| directory::below(&folder, &kind.file_name(0));
    let len_of = |kind: FileKind| {
        let found = store.backend().metadata(&path(kind));
        found.map_err(|error| StoreError::io("measure", &path(kind), error))
    };
    let small = |kind, digest| -> Result<FileEntry, StoreError> {
        Ok(FileEntry {
            kind,
            index: 0,
            len_bytes: len_of(kind)?.len_bytes,
            digest,
        })
    };
    let mut placement = Placement {
        id,
        generation: 1,
        manifest: digest,
        files: vec![small(FileKind::Manifest, digest)?],
        dependencies: Vec::new(),
        flattened: snapshot_format::LeafTable::default(),
        features: manifest.features,
    };
    if let Some(state) = manifest.state {
        let bytes = file::read(
            store.backend(),
            &path(FileKind::State),
            snapshot_format::limits::MAX_ENVELOPE_BYTES,
        )?;
        if Digest::of(&bytes) != state {
            let problem = "its digest is not the one that the manifest names";
            return Err(StoreError::damaged(&path(FileKind::State), problem));
        }
        placement.files.push(small(FileKind::State, state)?);
    }
    if let Some(map_root) = manifest.map_root {
        add_memory(store, manifest, map_root, &mut placement)?;
    }
    placement
        .files
        .sort_by_key(|file| (file.kind.number(), file.index));
    Ok(placement)
}

/// Names the memory of the manifest, and all that it may be in.
fn add_memory(
    store: &Store,
    manifest: &Manifest,
    map_root: Digest,
    placement: &mut Placement,
) -> Result<(), StoreError> {
    let own = DataFileRef {
        snapshot: manifest.id,
        index: 0,
        map_root,
    };
    let (map, data) = entries(store, manifest.id, 0)?;
    let file = open_for_map(store, &own)?;
    let number = usize::from(file.root().file);
    let (before, flattened) = match (number, manifest.parent) {
        (1, _) => (Vec::new(), snapshot_format::LeafTable::default()),
        (_, Some(parent)) => {
            let of_parent = placement_of(store, parent.id, parent.digest, number - 1)?;
            (of_parent.dependencies, of_parent.flattened)
        }
        (_, None) => {
            let problem = "its map needs data files of a parent, and it has none";
            let path = directory::below(
                &Location::Live.snapshot(manifest.id),
                &FileKind::MemoryMap.file_name(0),
            );
            return Err(StoreError::damaged(&path, problem));
        }
    };
    placement.dependencies = before;
    placement.dependencies.push(own);
    placement.flattened = flattened.overlaid(&file.root().owners);
    placement.files.extend([map, data]);
    Ok(())
}

/// The placement of the parent whose list has so many data files. Where several do, they must name
/// data files of the same snapshots in the same order.
fn placement_of(
    store: &Store,
    parent: SnapshotId,
    digest: Digest,
    count: usize,
) -> Result<Placement, StoreError> {
    let folder = |location: Location| location.snapshot(parent);
    let location = store.whereabouts(parent)?;
    let location = location.ok_or_else(|| StoreError::MissingFile {
        path: folder(Location::Live),
    })?;
    let refused = |problem: &str| StoreError::damaged(&folder(location), problem);
    let placed = Placed::read(store.backend(), location, parent)?;
    if placed.digest != digest {
        return Err(refused("it is not the parent that is named"));
    }
    let mut fitting: Vec<Placement> = Vec::new();
    for generation in placed::generations(store.backend(), location, parent)? {
        let read = placed::read_generation(
            store.backend(),
            location,
            &placed.manifest,
            digest,
            generation,
        )?;
        if read.dependencies.len() == count {
            fitting.push(read);
        }
    }
    let lists: BTreeSet<Vec<SnapshotId>> = fitting
        .iter()
        .map(|read| read.dependencies.iter().map(|data| data.snapshot).collect())
        .collect();
    match (lists.len(), fitting.pop()) {
        (1, Some(first)) => Ok(first),
        _ => Err(refused(
            "its placements do not say which data files its child needs",
        )),
    }
}

/// What a placement says of a map and of the data file that it describes, from the map itself.
fn entries(
    store: &Store,
    id: SnapshotId,
    index: u32,
) -> Result<(FileEntry, FileEntry), StoreError> {
    let (path, map) = placed::open_file(store.backend(), id, FileKind::MemoryMap, index)?;
    let len_bytes = map.len();
    let len_bytes = len_bytes.map_err(|error| StoreError::io("measure", &path, error))?;
    let found = MapFile::look(map, path.as_str().to_owned()).map_err(StoreError::image)?;
    if found.map.root().id != id {
        return Err(StoreError::damaged(&path, "it is of another snapshot"));
    }
    let map = FileEntry {
        kind: FileKind::MemoryMap,
        index,
        len_bytes,
        digest: found.frame_digest,
    };
    let data = FileEntry {
        kind: FileKind::MemoryData,
        index,
        len_bytes: found.map.root().data_len_bytes,
        digest: found.map_root,
    };
    Ok((map, data))
}

/// A data file whose map is sound, whatever its data is.
fn open_for_map(store: &Store, own: &DataFileRef) -> Result<DataFile, StoreError> {
    let open = |kind| placed::open_file(store.backend(), own.snapshot, kind, own.index);
    let (map_path, map) = open(FileKind::MemoryMap)?;
    let names = DataFileNames {
        map: map_path.as_str().to_owned(),
        data: map_path.as_str().to_owned(),
    };
    DataFile::open_damaged(map, None, names, own).map_err(StoreError::image)
}
