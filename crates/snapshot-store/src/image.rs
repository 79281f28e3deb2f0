//! The memory of a snapshot, open and kept from being deleted.

use std::ops::ControlFlow;

use snapshot_format::{
    DataFileRef, Digest, FileKind, MemoryLayout, Operation, PageRange, SnapshotId,
};
use snapshot_memory::backend::WriteFile;
use snapshot_memory::{
    DataFile, DataFileNames, ImageError, MapFile, MemoryImage, OpenDataFile, PageRun, PageSource,
    SourceError,
};

use crate::error::StoreError;
use crate::lease::Lease;
use crate::placed::{self, Placed};
use crate::store::Store;

/// The memory of a snapshot, with the lease that keeps its data where it is.
#[derive(Debug)]
pub struct StoredImage {
    image: MemoryImage,
    lease: Lease,
}

impl StoredImage {
    /// The memory.
    pub fn image(&self) -> &MemoryImage {
        &self.image
    }

    /// What keeps the data.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Both apart. The lease must outlive the image, and every mapping of its files.
    pub fn into_parts(self) -> (MemoryImage, Lease) {
        (self.image, self.lease)
    }
}

/// Whoever serves pages of it holds the lease.
impl PageSource for StoredImage {
    fn layout(&self) -> &MemoryLayout {
        self.image.layout()
    }

    fn run(&self, pages: PageRange) -> Result<PageRun, SourceError> {
        self.image.run(pages)
    }

    fn piece(&self, pages: PageRange) -> Result<PageRun, SourceError> {
        self.image.piece(pages)
    }

    fn read_pages(&self, pages: PageRange, out: &mut [u8]) -> Result<(), SourceError> {
        PageSource::read_pages(&self.image, pages, out)
    }
}

impl Store {
    /// Opens the memory of a snapshot in use, to bring a machine back.
    pub fn image(&self, id: SnapshotId) -> Result<StoredImage, StoreError> {
        self.image_to(Operation::Restore, id)
    }

    /// Opens the memory of a snapshot in use for an operation, which is refused where any file that
    /// it takes uses features that this build does not know.
    pub fn image_to(
        &self,
        operation: Operation,
        id: SnapshotId,
    ) -> Result<StoredImage, StoreError> {
        self.allow(operation)?;
        let (image, lease) = self.leased(id, |placed| {
            placed.allow(operation)?;
            self.open_image_to(operation, placed)
        })?;
        Ok(StoredImage { image, lease })
    }

    /// Writes the memory of a snapshot in use to `target` as one raw image, every byte checked.
    ///
    /// `target` is empty, and `target_name` stands for it in errors. After an error or a break by
    /// `tell`, which is given the bytes that are done, its content is of no use: the caller
    /// removes it.
    pub fn restore(
        &self,
        id: SnapshotId,
        target: &mut dyn WriteFile,
        target_name: &str,
        tell: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let span = tracing::info_span!("restore", snapshot = %id);
        let _inside = span.enter();
        let stored = self.image(id)?;
        let whole = stored.image.write_raw(target, target_name, tell);
        if whole.map_err(StoreError::image)? {
            Ok(())
        } else {
            Err(StoreError::Interrupted)
        }
    }

    /// Opens the memory of a snapshot to look at it.
    pub(crate) fn open_image(&self, placed: &Placed) -> Result<MemoryImage, StoreError> {
        self.open_image_to(Operation::Read, placed)
    }

    fn open_image_to(
        &self,
        operation: Operation,
        placed: &Placed,
    ) -> Result<MemoryImage, StoreError> {
        if placed.manifest.map_root.is_none() {
            return Err(StoreError::NotFound {
                what: format!("memory of snapshot {}", placed.manifest.id),
            });
        }
        let opener = DependencyOpener {
            store: self.clone(),
            operation,
            own: placed.manifest.id,
            map_root: placed.manifest.map_root,
        };
        MemoryImage::on_demand(
            placed.manifest.layout.clone(),
            placed.placement.flattened.clone(),
            placed.placement.dependencies.clone(),
            Box::new(opener),
        )
        .map_err(StoreError::image)
    }

    /// Opens the map that the manifest names, where the placement names memory that was laid out
    /// anew.
    pub(crate) fn open_first_map(
        &self,
        own: &DataFileRef,
        map_root: Option<Digest>,
    ) -> Result<Option<MapFile>, StoreError> {
        let again = map_root.filter(|_| own.index != 0);
        again
            .map(|map_root| self.open_map(own.snapshot, map_root))
            .transpose()
    }

    /// Opens the first map of a snapshot.
    pub(crate) fn open_map(&self, id: SnapshotId, map_root: Digest) -> Result<MapFile, StoreError> {
        let first = DataFileRef {
            snapshot: id,
            index: 0,
            map_root,
        };
        let (path, map) = placed::open_file(self.backend(), id, FileKind::MemoryMap, 0)?;
        MapFile::open(map, path.as_str().to_owned(), &first).map_err(StoreError::image)
    }

    /// Opens a data file and its map, of a snapshot that is in use or deleted.
    pub(crate) fn open_data_file(&self, data: &DataFileRef) -> Result<DataFile, StoreError> {
        let open = |kind| placed::open_file(self.backend(), data.snapshot, kind, data.index);
        let (map_path, map) = open(FileKind::MemoryMap)?;
        let (data_path, bytes) = open(FileKind::MemoryData)?;
        let names = DataFileNames {
            map: map_path.as_str().to_owned(),
            data: data_path.as_str().to_owned(),
        };
        DataFile::open(map, bytes, names, data).map_err(StoreError::image)
    }
}

/// Opens the data files that a placement names, in `snapshots/` or in `trash/`.
///
/// The lease of the image keeps every one of them.
#[derive(Debug)]
struct DependencyOpener {
    store: Store,
    /// What the image is opened for.
    operation: Operation,
    /// The snapshot that the image is of, and the root that its manifest names.
    own: SnapshotId,
    map_root: Option<Digest>,
}

impl DependencyOpener {
    fn open_checked(&self, data: &DataFileRef) -> Result<DataFile, StoreError> {
        let file = self.store.open_data_file(data)?;
        file.allow(self.operation)?;
        if data.snapshot == self.own
            && let Some(first) = self.store.open_first_map(data, self.map_root)?
        {
            file.check_same_root(&first)?;
        }
        Ok(file)
    }
}

impl OpenDataFile for DependencyOpener {
    fn open(&self, data: &DataFileRef) -> Result<DataFile, ImageError> {
        self.open_checked(data).map_err(|error| match error {
            StoreError::Image { source } => *source,
            StoreError::MissingFile { path } => ImageError::Missing {
                file: path.as_str().to_owned(),
            },
            StoreError::Io {
                action,
                path,
                source,
            } => ImageError::File {
                operation: action,
                file: path.as_str().to_owned(),
                source,
            },
            // Opening a data file fails in no other way.
            other => ImageError::File {
                operation: "open",
                file: data.snapshot.to_string(),
                source: std::io::Error::other(other),
            },
        })
    }
}
