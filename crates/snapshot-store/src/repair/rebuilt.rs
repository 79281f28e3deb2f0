//! A placement made again from what it named.

use snapshot_format::{DataFileRef, Digest, FileEntry, FileKind, Manifest, Placement, SnapshotId};
use snapshot_memory::MapFile;

use crate::directory::{self, Location};
use crate::error::StoreError;
use crate::file;
use crate::placed;
use crate::repair::chain::{self, Chain};
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

/// A placement of a snapshot, from its manifest, its maps, and what other placements name.
///
/// It is refused where these leave a choice: the owners in its map are numbers of a list that must
/// be the one of before.
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
        add_memory(store, location, manifest, map_root, &mut placement)?;
    }
    placement
        .files
        .sort_by_key(|file| (file.kind.number(), file.index));
    Ok(placement)
}

/// Names the memory of the manifest, and all that it lies in.
///
/// The first file is preferred, as the manifest binds it. Where what that one needs is gone, it is a
/// merged one that took its place.
fn add_memory(
    store: &Store,
    location: Location,
    manifest: &Manifest,
    map_root: Digest,
    placement: &mut Placement,
) -> Result<(), StoreError> {
    let (map, data) = entries(store, manifest.id, 0)?;
    placement.files.extend([map, data]);
    let first = store.open_map(manifest.id, map_root)?;
    let mut refused = None;
    for index in chain::own_indexes(store, location, manifest)? {
        match Chain::of(store, manifest, index) {
            Ok(chain) => {
                if index != 0 {
                    let (map, data) = entries(store, manifest.id, index)?;
                    let own = store.open_data_file(&DataFileRef {
                        snapshot: manifest.id,
                        index,
                        map_root: data.digest,
                    })?;
                    own.check_same_root(&first).map_err(StoreError::image)?;
                    placement.files.extend([map, data]);
                }
                placement.dependencies = chain.files;
                placement.flattened = chain.flattened;
                return Ok(());
            }
            Err(error) => {
                refused.get_or_insert(error);
            }
        }
    }
    Err(refused.unwrap_or_else(|| StoreError::MissingFile {
        path: location.snapshot(manifest.id),
    }))
}

/// What a placement says of a map and of the data file that it describes, from the map itself.
pub(super) fn entries(
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
