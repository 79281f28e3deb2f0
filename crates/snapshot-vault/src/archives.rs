//! The archives of a domain: listed, opened, deleted, brought back.

use std::collections::BTreeSet;

use snapshot_format::{Digest, SnapshotId};

use crate::archive::{ArchiveOptions, ChunkStore};
use crate::chunk::{ChunkEncoder, zero_chunk};
use crate::domain::Domain;
use crate::error::{FormatError, VaultError};
use crate::fetch::Chunks;
use crate::id::ObjectId;
use crate::image::{ColdImage, read_leaf};
use crate::index::Purpose;
use crate::objects::ObjectKind;
use crate::pack::Representation;
use crate::recipe::{ArchivedKind, Recipe, RecipeFile};

/// An archive, as a list gives it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ArchiveSummary {
    /// The archive.
    pub id: ObjectId,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The digest of its manifest.
    pub manifest: Digest,
    /// Whether it was deleted, and may be undeleted.
    pub is_deleted: bool,
}

/// What a domain holds.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct ArchiveList {
    /// The archives, ascending by id. A snapshot may have several, which hold the same.
    pub archives: Vec<ArchiveSummary>,
    /// Recipes without a commit: their writers go on, or have died.
    pub unfinished: Vec<ObjectId>,
    /// Recipes that cannot be read, and why. They hide no other.
    pub damaged: Vec<(ObjectId, VaultError)>,
}

/// An archived snapshot, open. What it needs stays while its recipe does.
#[derive(Clone, Debug)]
pub struct ColdSnapshot {
    id: ObjectId,
    chunks: Chunks,
    recipe: Recipe,
}

impl Domain {
    /// The archives of the domain.
    pub fn archives(&self) -> Result<ArchiveList, VaultError> {
        let commits = self.ids(ObjectKind::Commit)?;
        let trash = self.ids(ObjectKind::Trash)?;
        let mut list = ArchiveList::default();
        for (id, _) in self.list(ObjectKind::Recipe)? {
            if !commits.contains(&id) {
                list.unfinished.push(id);
                continue;
            }
            match self.recipe(id) {
                Ok(recipe) => list.archives.push(ArchiveSummary {
                    id,
                    snapshot: recipe.snapshot,
                    manifest: recipe.manifest,
                    is_deleted: trash.contains(&id),
                }),
                Err(VaultError::NotFound { .. }) => {}
                Err(error) => list.damaged.push((id, error)),
            }
        }
        Ok(list)
    }

    /// The archive of a snapshot that counts: the one with the lowest id that is not deleted.
    pub fn archive_of(&self, snapshot: SnapshotId) -> Result<ObjectId, VaultError> {
        let list = self.archives()?;
        let mut found = list.archives.iter();
        let found = found.find(|archive| archive.snapshot == snapshot && !archive.is_deleted);
        found
            .map(|archive| archive.id)
            .ok_or_else(|| VaultError::NotFound {
                what: format!("an archive of snapshot {snapshot}"),
            })
    }

    /// Opens an archive, also one that was deleted and may be undeleted.
    pub fn open_archive(&self, id: ObjectId) -> Result<ColdSnapshot, VaultError> {
        let recipe = self.recipe(id)?;
        if !self.exists(ObjectKind::Commit, id)? {
            return Err(no_archive(id));
        }
        let chunks = Chunks::load(self, Purpose::Read)?;
        Ok(ColdSnapshot { id, chunks, recipe })
    }

    /// Deletes an archive: it is no longer listed as one that counts, and a later collection may
    /// expire it. Until then it can be undeleted.
    pub fn delete_archive(&self, id: ObjectId) -> Result<(), VaultError> {
        let is_there =
            self.exists(ObjectKind::Recipe, id)? && self.exists(ObjectKind::Commit, id)?;
        if !is_there {
            return Err(no_archive(id));
        }
        self.put(ObjectKind::Trash, id, &[])
    }

    /// Archives again, under a new id, what an archive in the trash holds, without copying a chunk.
    pub fn undelete_archive(&self, id: ObjectId) -> Result<ObjectId, VaultError> {
        if !self.exists(ObjectKind::Trash, id)? {
            return Err(no_archive(id));
        }
        let recipe = self.open_archive(id)?.recipe;
        // What a reader's index has is not counted on.
        let chunks = Chunks::load(self, Purpose::Count)?;
        self.publish(&recipe, &mut || require_all(&chunks, &recipe))
    }

    /// The recipe of an archive, or of what may become one.
    pub(crate) fn recipe(&self, id: ObjectId) -> Result<Recipe, VaultError> {
        let body = match self.get(ObjectKind::Recipe, id) {
            Err(error) if error.is_missing_object() => return Err(no_archive(id)),
            body => body?,
        };
        let name = self.name(ObjectKind::Recipe, id);
        Recipe::parse(&body).map_err(VaultError::damaged(&name))
    }

    pub(crate) fn ids(&self, kind: ObjectKind) -> Result<BTreeSet<ObjectId>, VaultError> {
        let listed = self.list(kind)?;
        Ok(listed.into_iter().map(|(id, _)| id).collect())
    }
}

impl ColdSnapshot {
    /// The snapshot.
    #[must_use]
    pub fn snapshot(&self) -> SnapshotId {
        self.recipe.snapshot
    }

    /// The digest of its manifest.
    #[must_use]
    pub fn manifest_digest(&self) -> Digest {
        self.recipe.manifest
    }

    /// The archive.
    #[must_use]
    pub fn id(&self) -> ObjectId {
        self.id
    }

    /// Opens another archive of the domain by the same index.
    pub(crate) fn open_beside(&self, id: ObjectId) -> Result<Self, VaultError> {
        let domain = self.chunks.domain();
        let recipe = domain.recipe(id)?;
        if !domain.exists(ObjectKind::Commit, id)? {
            return Err(no_archive(id));
        }
        let chunks = self.chunks.clone();
        Ok(Self { id, chunks, recipe })
    }

    /// Its files: what they are, and their lengths in bytes.
    pub fn files(&self) -> impl Iterator<Item = (ArchivedKind, u16, u64)> + '_ {
        let files = self.recipe.files.iter();
        files.map(|file| (file.kind, file.index, file.len_bytes))
    }

    /// The bytes of a file, checked; `None` if there is no such file.
    pub fn file(&self, kind: ArchivedKind, index: u16) -> Result<Option<Vec<u8>>, VaultError> {
        let file = self.recipe.file(kind, index);
        file.map(|file| self.read_file(file)).transpose()
    }

    /// Its memory; `None` if it has none.
    #[must_use]
    pub fn memory(&self) -> Option<ColdImage> {
        ColdImage::of(&self.chunks, &self.recipe)
    }

    fn read_file(&self, file: &RecipeFile) -> Result<Vec<u8>, VaultError> {
        // The length was compared with the number of chunks, which are there.
        let len = usize::try_from(file.len_bytes).unwrap_or(usize::MAX);
        let mut bytes = Vec::new();
        self.chunks
            .fetch(&file.chunks, &mut |_, chunk| bytes.extend_from_slice(chunk))?;
        let padding = bytes.split_off(len.min(bytes.len()));
        let is_right = padding.iter().all(|byte| *byte == 0) && Digest::of(&bytes) == file.digest;
        if is_right {
            return Ok(bytes);
        }
        // Each chunk has the id that the recipe names: the recipe is wrong about them.
        let name = self.chunks.domain().name(ObjectKind::Recipe, self.id);
        Err(VaultError::damaged(&name)(FormatError::Digest))
    }
}

/// Step 4 of page 41 for an archive whose chunks come from the vault itself: all of them are
/// available from good packs, or are copied, by lists that begin now.
fn require_all(chunks: &Chunks, recipe: &Recipe) -> Result<(), VaultError> {
    for _ in 0..ATTEMPTS {
        chunks.refresh()?;
        let mut missing = BTreeSet::new();
        let mut note = |id| {
            if !chunks.index().is_available(id) {
                missing.insert(id);
            }
        };
        for (_, leaf) in &recipe.leaves {
            read_leaf(chunks, *leaf)?
                .chunks
                .into_iter()
                .flatten()
                .for_each(&mut note);
        }
        recipe.chunks().for_each(note);
        if missing.is_empty() {
            return Ok(());
        }
        let mut store = ChunkStore::new(chunks);
        let mut encoder = ChunkEncoder::new(ArchiveOptions::CODEC)?;
        let (mut decoder, mut chunk) = (chunks.decoder(), zero_chunk());
        for id in missing {
            chunks.fetch_one(id, &mut decoder, &mut chunk)?;
            store.push(&encoder.encode(id, &chunk, Representation::Full))?;
        }
        store.flush()?;
    }
    Err(VaultError::Overtaken)
}

fn no_archive(id: ObjectId) -> VaultError {
    VaultError::NotFound {
        what: format!("archive {id}"),
    }
}

/// How often chunks are copied out of packs that are being collected.
const ATTEMPTS: usize = 8;
