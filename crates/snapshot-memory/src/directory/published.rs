//! Reading back a snapshot that lies in a plain directory.

use std::io;

use snapshot_format::{
    DataFileRef, DecodeError, Digest, FileKind, Header, Manifest, Operation, Placement,
    SectionOffers, SnapshotId, SnapshotRef, StateFile, limits,
};

use crate::backend::{Backend, ReadFile, RelPath};
use crate::error::FileError;
use crate::image::{DataFile, DataFileNames, ImageError, MapFile, MemoryImage, allow};

/// A published snapshot: its manifest and its placement, checked against each other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PublishedSnapshot {
    /// What it is.
    pub manifest: Manifest,
    /// Where its bytes are.
    pub placement: Placement,
}

/// Reading a snapshot of a directory failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryError {
    /// A file could not be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file does not hold what it must.
    #[error("{path} is damaged")]
    Damaged {
        /// The file.
        path: RelPath,
        /// What is wrong, and where.
        #[source]
        source: DecodeError,
    },
    /// A sound file that is not the one that is named.
    #[error("{path} hashes to {found} where {expected} is named: it was replaced")]
    Replaced {
        /// The file.
        path: RelPath,
        /// The digest that is named.
        expected: Digest,
        /// The digest of its bytes.
        found: Digest,
    },
    /// No file says where the bytes are.
    #[error("{path} has no placement (place.<n>.vms)")]
    NoPlacement {
        /// The directory of the snapshot.
        path: RelPath,
    },
    /// The memory could not be opened.
    #[error(transparent)]
    Image(#[from] ImageError),
}

impl PublishedSnapshot {
    /// Reads manifest and placement of the snapshot in the directory `<id>` of the backend's root.
    ///
    /// The placement with the highest number that is sound counts.
    pub fn open(backend: &dyn Backend, id: SnapshotId) -> Result<Self, DirectoryError> {
        let dir = child(&RelPath::root(), &id.to_string())?;
        let path = child(&dir, &FileKind::Manifest.file_name(0))?;
        let bytes = read_small(backend, &path)?;
        let manifest = Manifest::parse(&bytes).map_err(damaged(&path))?;
        let found = Digest::of(&bytes);
        let mut generations: Vec<u32> = backend
            .list(&dir)
            .map_err(FileError::at("list", &dir))?
            .iter()
            .filter_map(|entry| generation(&entry.name))
            .collect();
        generations.sort_unstable();
        let mut first_error = None;
        for generation in generations.into_iter().rev() {
            let path = child(&dir, &FileKind::Placement.file_name(generation))?;
            match read_placement(backend, &path, &manifest, found) {
                Ok(placement) => {
                    return Ok(Self {
                        manifest,
                        placement,
                    });
                }
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        Err(first_error.unwrap_or(DirectoryError::NoPlacement { path: dir }))
    }

    /// What a child names it by.
    #[must_use]
    pub fn reference(&self) -> SnapshotRef {
        SnapshotRef {
            id: self.manifest.id,
            digest: self.placement.manifest,
        }
    }

    /// Refuses an operation that needs features of manifest or placement which this build does not
    /// know.
    pub fn allow(&self, operation: Operation) -> Result<(), DirectoryError> {
        let id = self.manifest.id;
        let manifest = (FileKind::Manifest.file_name(0), self.manifest.features);
        let placement = (self.placement.file_name(), self.placement.features);
        for (name, features) in [manifest, placement] {
            allow(&format!("{id}/{name}"), features, operation)?;
        }
        Ok(())
    }

    /// Opens its memory to bring a machine back, over all data files that it depends on.
    pub fn image(&self, backend: &dyn Backend) -> Result<MemoryImage, DirectoryError> {
        self.image_to(Operation::Restore, backend)
    }

    /// Opens its memory for an operation, over all data files that it depends on.
    pub fn image_to(
        &self,
        operation: Operation,
        backend: &dyn Backend,
    ) -> Result<MemoryImage, DirectoryError> {
        self.allow(operation)?;
        let files = self.placement.dependencies.iter();
        let files = files.map(|data| {
            let file = open_data(backend, data)?;
            file.allow(operation)?;
            Ok(file)
        });
        let files: Vec<DataFile> = files.collect::<Result<_, DirectoryError>>()?;
        if let (Some(first), Some(own)) = (self.first_data(), files.last())
            && own.reference().index != 0
        {
            let (name, map) = open(backend, &first, FileKind::MemoryMap)?;
            own.check_same_root(&MapFile::open(map, name, &first)?)?;
        }
        let layout = self.manifest.layout.clone();
        let flattened = self.placement.flattened.clone();
        Ok(MemoryImage::new(layout, flattened, files)?)
    }

    /// The data file that its manifest names.
    fn first_data(&self) -> Option<DataFileRef> {
        Some(DataFileRef {
            snapshot: self.manifest.id,
            index: 0,
            map_root: self.manifest.map_root?,
        })
    }

    /// Reads its machine state to bring the machine back; nothing is offered where it has none.
    pub fn state(&self, backend: &dyn Backend) -> Result<SectionOffers, DirectoryError> {
        self.allow(Operation::Restore)?;
        let Some(expected) = self.manifest.state else {
            return Ok(SectionOffers::default());
        };
        let dir = child(&RelPath::root(), &self.manifest.id.to_string())?;
        let path = child(&dir, &FileKind::State.file_name(0))?;
        let bytes = read_small(backend, &path)?;
        check(&path, expected, &bytes)?;
        let header = Header::parse(&bytes, bytes.len() as u64).map_err(damaged(&path))?;
        allow(path.as_str(), header.features, Operation::Restore)?;
        StateFile::offers(&bytes).map_err(damaged(&path))
    }
}

fn read_placement(
    backend: &dyn Backend,
    path: &RelPath,
    manifest: &Manifest,
    found: Digest,
) -> Result<Placement, DirectoryError> {
    let bytes = read_small(backend, path)?;
    let placement = Placement::parse(&bytes).map_err(damaged(path))?;
    if placement.manifest != found {
        return Err(DirectoryError::Replaced {
            path: path.clone(),
            expected: placement.manifest,
            found,
        });
    }
    let own = placement.own_data(manifest.map_root);
    own.map_err(damaged(path))?;
    Ok(placement)
}

fn open_data(backend: &dyn Backend, data: &DataFileRef) -> Result<DataFile, DirectoryError> {
    let (map_name, map) = open(backend, data, FileKind::MemoryMap)?;
    let (data_name, bytes) = open(backend, data, FileKind::MemoryData)?;
    let names = DataFileNames {
        map: map_name,
        data: data_name,
    };
    Ok(DataFile::open(map, bytes, names, data)?)
}

/// Opens one of the two files of a data file.
fn open(
    backend: &dyn Backend,
    data: &DataFileRef,
    kind: FileKind,
) -> Result<(String, Box<dyn ReadFile>), DirectoryError> {
    let dir = child(&RelPath::root(), &data.snapshot.to_string())?;
    let path = child(&dir, &kind.file_name(data.index))?;
    let file = backend.open(&path).map_err(FileError::at("open", &path))?;
    Ok((path.to_string(), file))
}

/// Reads a file of at most [`limits::MAX_ENVELOPE_BYTES`].
fn read_small(backend: &dyn Backend, path: &RelPath) -> Result<Vec<u8>, FileError> {
    let read = || -> io::Result<Vec<u8>> {
        let file = backend.open(path)?;
        let len = file.len()?;
        if len > limits::MAX_ENVELOPE_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        file.read_exact_at(0, &mut bytes)?;
        Ok(bytes)
    };
    read().map_err(FileError::at("read", path))
}

fn check(path: &RelPath, expected: Digest, bytes: &[u8]) -> Result<(), DirectoryError> {
    expected
        .check(bytes)
        .map_err(|found| DirectoryError::Replaced {
            path: path.clone(),
            expected,
            found,
        })
}

fn damaged(path: &RelPath) -> impl FnOnce(DecodeError) -> DirectoryError {
    let path = path.clone();
    move |source| DirectoryError::Damaged { path, source }
}

fn child(dir: &RelPath, name: &str) -> Result<RelPath, FileError> {
    dir.join(name)
        .map_err(io::Error::other)
        .map_err(FileError::at("name a file in", dir))
}

/// The number in `place.<n>.vms`.
fn generation(name: &str) -> Option<u32> {
    let number = name.strip_prefix("place.")?.strip_suffix(".vms")?;
    let generation = number.parse().ok()?;
    // One spelling only: no sign, no leading zero.
    (FileKind::Placement.file_name(generation) == name).then_some(generation)
}
