//! What is archived.

use snapshot_format::{Digest, SnapshotId};
use snapshot_memory::{DirtyBitmap, PageSource};

use crate::error::VaultError;
use crate::id::ObjectId;
use crate::limits::{MAX_RECIPE_FILE_BYTES, MAX_RECIPE_FILES};
use crate::recipe::ArchivedKind;

/// A snapshot to be archived.
#[derive(Clone, Copy)]
pub struct ArchiveInput<'a> {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Its files, kept byte for byte; the manifest is one of them.
    pub files: &'a [ArchiveFile<'a>],
    /// Its memory, if it has any.
    pub memory: Option<&'a dyn PageSource>,
    /// What its memory is nearly equal to, if that is known.
    pub relative: Option<Relative<'a>>,
}

/// A file of a snapshot.
#[derive(Clone, Copy, Debug)]
pub struct ArchiveFile<'a> {
    /// What it is.
    pub kind: ArchivedKind,
    /// Which one of its kind.
    pub index: u16,
    /// Its bytes.
    pub bytes: &'a [u8],
}

/// An archive that shares pages with the memory to be archived.
#[derive(Clone, Copy, Debug)]
pub struct Relative<'a> {
    /// The archive: of the parent, say.
    pub archive: ObjectId,
    /// The image pages that may differ from its memory. All others MUST be equal: because both
    /// snapshots take them from the same data file, or because they were compared. The memories have
    /// the same layout; otherwise nothing is taken from this.
    pub changed: &'a DirtyBitmap,
}

impl ArchiveInput<'_> {
    /// The digest of the manifest, and that there are no more files than a recipe takes.
    pub(super) fn check(&self) -> Result<Digest, VaultError> {
        if self.files.len() > MAX_RECIPE_FILES {
            return Err(VaultError::TooMany {
                what: "files of an archive",
                found: self.files.len() as u64,
                limit: MAX_RECIPE_FILES as u64,
            });
        }
        let mut longest = self.files.iter().map(|file| file.bytes.len() as u64);
        if let Some(found) = longest.find(|len| *len > MAX_RECIPE_FILE_BYTES) {
            return Err(VaultError::TooMany {
                what: "bytes of a file of an archive",
                found,
                limit: MAX_RECIPE_FILE_BYTES,
            });
        }
        let mut files = self.files.iter();
        let manifest = files.find(|file| file.kind == ArchivedKind::MANIFEST);
        let manifest = manifest.ok_or_else(|| VaultError::Input {
            what: "a snapshot is archived with its manifest".to_owned(),
        })?;
        Ok(Digest::of(manifest.bytes))
    }
}

impl std::fmt::Debug for ArchiveInput<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = f.debug_struct("ArchiveInput");
        debug.field("snapshot", &self.snapshot);
        debug.field("files", &self.files.len());
        debug.finish_non_exhaustive()
    }
}
