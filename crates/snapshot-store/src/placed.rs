//! Where the bytes of a snapshot lie: the placement that counts, and the files that it names.

use std::collections::BTreeSet;
use std::io;

use snapshot_format::{Digest, FileKind, Manifest, Placement, SnapshotId, limits};
use snapshot_memory::backend::{Backend, ReadFile, RelPath};

use crate::directory::{self, Location};
use crate::error::StoreError;
use crate::file;
use crate::record;

/// A snapshot with the placement that counts.
#[derive(Debug)]
pub(crate) struct Placed {
    pub(crate) location: Location,
    pub(crate) manifest: Manifest,
    /// BLAKE3 of `manifest.vms`.
    pub(crate) digest: Digest,
    pub(crate) placement: Placement,
    /// What is wrong with placements of higher generations.
    pub(crate) passed_over: Vec<StoreError>,
}

impl Placed {
    /// Reads the snapshot at `location`.
    ///
    /// A placement file gets its name by a rename after it is durable, so one that does not parse
    /// is damage and never a write that a crash cut short. Every generation says where the same
    /// bytes lie, and those are checked by digests of their own: the highest generation that is
    /// valid serves, and what is wrong with those above it is kept for a report.
    pub(crate) fn read(
        backend: &dyn Backend,
        location: Location,
        id: SnapshotId,
    ) -> Result<Self, StoreError> {
        let (manifest, digest) = record::read_manifest(backend, location, id)?;
        let mut passed_over = Vec::new();
        for generation in generations(backend, location, id)? {
            match read_generation(backend, location, &manifest, digest, generation) {
                Ok(placement) => {
                    return Ok(Self {
                        location,
                        manifest,
                        digest,
                        placement,
                        passed_over,
                    });
                }
                Err(error) => passed_over.push(error),
            }
        }
        let missing = || StoreError::MissingFile {
            path: directory::below(&location.snapshot(id), &FileKind::Placement.file_name(1)),
        };
        Err(passed_over.into_iter().next().unwrap_or_else(missing))
    }

    /// The snapshot itself and every one whose data it needs.
    pub(crate) fn closure(&self) -> BTreeSet<SnapshotId> {
        let needed = self.placement.dependencies.iter().map(|data| data.snapshot);
        needed.chain([self.manifest.id]).collect()
    }

    /// Where one of its own files is.
    pub(crate) fn path(&self, kind: FileKind, index: u32) -> RelPath {
        directory::below(
            &self.location.snapshot(self.manifest.id),
            &kind.file_name(index),
        )
    }
}

/// Opens a file of a snapshot that is in use or deleted.
pub(crate) fn open_file(
    backend: &dyn Backend,
    id: SnapshotId,
    kind: FileKind,
    index: u32,
) -> Result<(RelPath, Box<dyn ReadFile>), StoreError> {
    let name = kind.file_name(index);
    // A snapshot that comes back from the trash may move from behind the search to before it.
    let [live, trash] = Location::SEARCH;
    for location in [live, trash, live] {
        let path = directory::below(&location.snapshot(id), &name);
        match backend.open(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(StoreError::io("open", &path, error)),
        }
    }
    Err(StoreError::MissingFile {
        path: directory::below(&Location::Live.snapshot(id), &name),
    })
}

/// The kinds and indexes of the files that a new placement may have added: memory files that are
/// not the first of their kind, and working sets.
pub(crate) fn added_files(
    backend: &dyn Backend,
    location: Location,
    id: SnapshotId,
) -> Result<Vec<(FileKind, u32)>, StoreError> {
    let path = location.snapshot(id);
    let entries = backend
        .list(&path)
        .map_err(|error| StoreError::io("list", &path, error))?;
    Ok(entries.iter().filter_map(|e| added_file(&e.name)).collect())
}

/// The index in the name of a data file or of a map.
pub(crate) fn memory_index(name: &str) -> Option<u32> {
    let is_memory = |kind| matches!(kind, FileKind::MemoryMap | FileKind::MemoryData);
    let first = [FileKind::MemoryMap, FileKind::MemoryData].map(|kind| kind.file_name(0));
    if first.iter().any(|first| first == name) {
        return Some(0);
    }
    added_file(name)
        .filter(|(kind, _)| is_memory(*kind))
        .map(|(_, index)| index)
}

fn added_file(name: &str) -> Option<(FileKind, u32)> {
    let (kind, index) = match name.strip_prefix("working-set.") {
        Some(index) => (FileKind::WorkingSet, index),
        None => match name.strip_prefix("memory.")?.split_once('.')? {
            (index, "map") => (FileKind::MemoryMap, index),
            (index, "img") => (FileKind::MemoryData, index),
            _ => return None,
        },
    };
    let index = index.parse().ok()?;
    // One spelling only.
    (kind.file_name(index) == name).then_some((kind, index))
}

/// The numbers of the placement files, highest first.
pub(crate) fn generations(
    backend: &dyn Backend,
    location: Location,
    id: SnapshotId,
) -> Result<Vec<u32>, StoreError> {
    let path = location.snapshot(id);
    let entries = backend
        .list(&path)
        .map_err(|error| StoreError::io("list", &path, error))?;
    let number = |name: &str| {
        let digits = name.strip_prefix("place.")?.strip_suffix(".vms")?;
        let number = digits.parse().ok()?;
        // One spelling only.
        (FileKind::Placement.file_name(number) == name).then_some(number)
    };
    let mut found: Vec<u32> = entries.iter().filter_map(|e| number(&e.name)).collect();
    found.sort_unstable_by(|a, b| b.cmp(a));
    Ok(found)
}

/// The snapshot by each of its placements that can be read, the newest first; by none where its manifest
/// cannot.
pub(crate) fn all_readable(
    backend: &dyn Backend,
    location: Location,
    id: SnapshotId,
) -> Result<Vec<Placed>, StoreError> {
    let Ok((manifest, digest)) = record::read_manifest(backend, location, id) else {
        return Ok(Vec::new());
    };
    let generations = generations(backend, location, id)?.into_iter();
    let read = generations.filter_map(|generation| {
        let placement = read_generation(backend, location, &manifest, digest, generation);
        Some(Placed {
            location,
            manifest: manifest.clone(),
            digest,
            placement: placement.ok()?,
            passed_over: Vec::new(),
        })
    });
    Ok(read.collect())
}

/// Reads one placement, and checks that it and the manifest speak of the same files.
pub(crate) fn read_generation(
    backend: &dyn Backend,
    location: Location,
    manifest: &Manifest,
    digest: Digest,
    generation: u32,
) -> Result<Placement, StoreError> {
    let name = FileKind::Placement.file_name(generation);
    let path = directory::below(&location.snapshot(manifest.id), &name);
    let bytes = file::read(backend, &path, limits::MAX_ENVELOPE_BYTES)?;
    let placement = Placement::parse(&bytes).map_err(|error| StoreError::decode(&path, error))?;
    let state = || placement.file(FileKind::State, 0).map(|file| file.digest);
    let problem = if placement.id != manifest.id {
        Some("it belongs to another snapshot")
    } else if placement.generation != generation {
        Some("its generation is not the one in its name")
    } else if placement.manifest != digest {
        Some("it names another manifest")
    } else if state() != manifest.state {
        Some("it names another machine state than the manifest")
    } else {
        None
    };
    if let Some(problem) = problem {
        return Err(StoreError::damaged(&path, problem));
    }
    match placement.own_data(manifest.map_root) {
        Ok(_) => Ok(placement),
        Err(error) => Err(StoreError::decode(&path, error)),
    }
}
