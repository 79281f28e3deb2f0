//! What a build must know to do something to a snapshot, as its files say.

use snapshot_format::envelope::HEADER_BYTES;
use snapshot_format::{DecodeError, Features, FileKind, Operation, SnapshotId, inspect_ends};
use snapshot_memory::backend::{Backend, RelPath};

use crate::directory::{self, Location};
use crate::error::StoreError;
use crate::placed::{self, Placed};
use crate::store::Store;

/// Refuses an operation that needs features of the file at `path` which this build does not know.
pub(crate) fn allow(
    path: &RelPath,
    features: Features,
    operation: Operation,
) -> Result<(), StoreError> {
    match features.allow(operation) {
        Err(DecodeError::Feature { operation, bits }) => Err(StoreError::Feature {
            path: path.clone(),
            operation,
            bits,
        }),
        _ => Ok(()),
    }
}

impl Placed {
    /// Refuses an operation that needs features of the manifest or of the placement that counts
    /// which this build does not know.
    pub(crate) fn allow(&self, operation: Operation) -> Result<(), StoreError> {
        let manifest = self.path(FileKind::Manifest, 0);
        allow(&manifest, self.manifest.features, operation)?;
        let placement = self.path(FileKind::Placement, self.placement.generation);
        allow(&placement, self.placement.features, operation)
    }
}

impl Store {
    /// Refuses an operation on any snapshot that needs features of the store's header which this
    /// build does not know.
    pub(crate) fn allow(&self, operation: Operation) -> Result<(), StoreError> {
        allow(&directory::store_file(), self.header().features, operation)
    }

    /// Refuses to decide that a snapshot may go, where its manifest or any of its placements, of
    /// whatever version, asks for more than this build knows.
    ///
    /// Damage refuses nothing: a snapshot that is damaged can be deleted.
    pub(crate) fn allow_gc(&self, location: Location, id: SnapshotId) -> Result<(), StoreError> {
        self.allow(Operation::Gc)?;
        let mut names = vec![FileKind::Manifest.file_name(0)];
        let generations = placed::generations(self.backend(), location, id)?;
        let placements = generations.into_iter();
        names.extend(placements.map(|generation| FileKind::Placement.file_name(generation)));
        for name in names {
            let path = directory::below(&location.snapshot(id), &name);
            if let Some(features) = stamped(self.backend(), &path) {
                allow(&path, features, Operation::Gc)?;
            }
        }
        Ok(())
    }
}

/// The words of a file's header, of whatever version; `None` where it has no sound header.
fn stamped(backend: &dyn Backend, path: &RelPath) -> Option<Features> {
    let file = backend.open(path).ok()?;
    let len = file.len().ok()?;
    let mut head = [0; HEADER_BYTES];
    file.read_exact_at(0, &mut head).ok()?;
    let header = inspect_ends(&head, &[], len).header?;
    header.sound.then_some(header.features)
}
