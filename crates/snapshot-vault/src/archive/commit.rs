//! The steps of an archive, in the order that page 41 proves.

use std::collections::BTreeSet;

use snapshot_format::{Digest, SnapshotId};

use crate::archive::input::ArchiveInput;
use crate::archive::memory;
use crate::archive::options::ArchiveOptions;
use crate::archive::store::ChunkStore;
use crate::archive::work::Source;
use crate::chunk::{ChunkEncoder, zero_chunk};
use crate::domain::Domain;
use crate::error::VaultError;
use crate::fetch::Chunks;
use crate::frame::FRAME_BYTES;
use crate::id::{ChunkId, ObjectId};
use crate::image::ColdImage;
use crate::index::Purpose;
use crate::limits::CHUNK_BYTES;
use crate::objects::ObjectKind;
use crate::pack::Representation;
use crate::recipe::{Recipe, RecipeFile};

/// A snapshot that was archived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Archived {
    /// The archive.
    pub id: ObjectId,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Records that were written: chunks that were not there.
    pub new_chunks: u64,
    /// Of them, those that hold only the pages that differ from another chunk.
    pub deltas: u64,
    /// Bytes of all objects that were put.
    pub stored_bytes: u64,
}

impl Archived {
    /// Of an archive that was found: nothing was stored.
    pub(crate) const fn there_already(id: ObjectId, snapshot: SnapshotId) -> Self {
        Self {
            id,
            snapshot,
            new_chunks: 0,
            deltas: 0,
            stored_bytes: 0,
        }
    }
}

impl Domain {
    /// Archives a snapshot. When this returns, it can be read, and no collection deletes what it
    /// needs; when it fails, nothing is archived, but where the error is that of the last call its
    /// outcome may not be known.
    pub fn archive(
        &self,
        input: &ArchiveInput<'_>,
        options: &ArchiveOptions,
    ) -> Result<Archived, VaultError> {
        let span = tracing::info_span!("archive", snapshot = %input.snapshot);
        let _inside = span.enter();
        let manifest = input.check()?;
        // Step 1.
        let chunks = Chunks::load(self, Purpose::Count)?;
        let near = near_image(&chunks, input)?;
        let mut archive = Archive {
            input,
            options,
            manifest,
            store: ChunkStore::new(&chunks),
            near,
            chunks,
        };
        // Step 2.
        let recipe = archive.store_all()?;
        let id = self.publish(&recipe, &mut || archive.store_again(&recipe))?;
        let stats = archive.store.stats();
        // The recipe in its frame, and the commit, which is a frame.
        let small_bytes = recipe.encode().len() + 2 * FRAME_BYTES;
        Ok(Archived {
            id,
            snapshot: input.snapshot,
            new_chunks: stats.records,
            deltas: stats.deltas,
            stored_bytes: stats.stored_bytes + small_bytes as u64,
        })
    }

    /// Steps 3 to 6. `store_again` is step 4: it returns when every chunk is available from packs
    /// that were listed after tombstones, after it was called.
    pub(crate) fn publish(
        &self,
        recipe: &Recipe,
        store_again: &mut dyn FnMut() -> Result<(), VaultError>,
    ) -> Result<ObjectId, VaultError> {
        let body = recipe.encode();
        let mut id = ObjectId::random()?;
        for _ in 0..ATTEMPTS {
            let committed = self
                .put(ObjectKind::Recipe, id, &body)
                .and_then(|()| store_again())
                .and_then(|()| self.put(ObjectKind::Commit, id, &[]));
            if let Err(error) = committed {
                self.give_up(id);
                return Err(error);
            }
            if !self.exists(ObjectKind::Withdrawal, id)? {
                return Ok(id);
            }
            // Whoever withdrew it may have deleted the recipe, or be about to.
            self.delete(ObjectKind::Commit, id)?;
            self.delete(ObjectKind::Recipe, id)?;
            id = ObjectId::random()?;
        }
        Err(VaultError::Withdrawn { id })
    }

    /// Takes a recipe back that will not be committed. Failing is no harm: it keeps what it needs.
    fn give_up(&self, id: ObjectId) {
        let withdrawn = self.put(ObjectKind::Withdrawal, id, &[]);
        // The commit may have happened although it failed: then the archive stays.
        let taken_back = withdrawn.and_then(|()| {
            if self.exists(ObjectKind::Commit, id)? {
                return Ok(());
            }
            self.delete(ObjectKind::Recipe, id)
        });
        if let Err(error) = taken_back {
            tracing::warn!(%error, %id, "a recipe that is not an archive stays");
        }
    }
}

/// An archive that is being written.
struct Archive<'a> {
    input: &'a ArchiveInput<'a>,
    options: &'a ArchiveOptions,
    manifest: Digest,
    store: ChunkStore,
    near: Option<ColdImage>,
    chunks: Chunks,
}

impl Archive<'_> {
    /// Stores every chunk that is not there, and gives the recipe.
    fn store_all(&mut self) -> Result<Recipe, VaultError> {
        let layout = self.input.memory.map(|memory| memory.layout().clone());
        let leaves = match self.input.memory {
            None => Vec::new(),
            Some(memory) => {
                let changed = self.input.relative.map(|relative| relative.changed);
                let source = Source {
                    memory,
                    chunks: &self.chunks,
                    near: self.near.as_ref().zip(changed),
                };
                memory::archive(source, &mut self.store, self.options)?
            }
        };
        let mut encoder = ChunkEncoder::new(self.options.codec)?;
        let mut files = Vec::with_capacity(self.input.files.len());
        for file in self.input.files {
            let pieces = file.bytes.chunks(CHUNK_BYTES);
            let ids = pieces.map(|piece| self.store_piece(piece, &mut encoder));
            files.push(RecipeFile {
                kind: file.kind,
                index: file.index,
                len_bytes: file.bytes.len() as u64,
                digest: Digest::of(file.bytes),
                chunks: ids.collect::<Result<_, _>>()?,
            });
        }
        files.sort_by_key(|file| (file.kind, file.index));
        self.store.flush()?;
        Ok(Recipe {
            snapshot: self.input.snapshot,
            manifest: self.manifest,
            layout,
            leaves,
            files,
        })
    }

    /// Stores a piece of a file, filled up with zeros.
    fn store_piece(
        &mut self,
        piece: &[u8],
        encoder: &mut ChunkEncoder,
    ) -> Result<ChunkId, VaultError> {
        self.options.check()?;
        let mut chunk = zero_chunk();
        chunk
            .iter_mut()
            .zip(piece)
            .for_each(|(to, from)| *to = *from);
        let id = self.chunks.domain().secrets().chunk_id(chunk.as_slice());
        let found = self.chunks.index().find(id);
        if let Some(way) = found {
            self.store.keep(way);
        } else {
            let encoded = encoder.encode(id, &chunk, Representation::Full);
            self.store.push(&encoded)?;
        }
        Ok(id)
    }

    /// Step 4: every pack that chunks lie in is good by lists that begin now. Where one is not, what
    /// lay in it is stored once more, from where it came.
    fn store_again(&mut self, recipe: &Recipe) -> Result<(), VaultError> {
        loop {
            self.options.check()?;
            self.chunks.refresh()?;
            let good: BTreeSet<ObjectId> = {
                let index = self.chunks.index();
                index.good_packs().map(|(id, _)| id).collect()
            };
            if self.store.used().is_subset(&good) {
                return Ok(());
            }
            self.store.forget_used();
            tracing::info!("packs are being collected: what lay in them is stored again");
            if self.store_all()? != *recipe {
                return Err(VaultError::Input {
                    what: "the memory that is archived changed while it was read".to_owned(),
                });
            }
        }
    }
}

/// The memory of the archive that the input is relative to, where that is of any use.
fn near_image(chunks: &Chunks, input: &ArchiveInput<'_>) -> Result<Option<ColdImage>, VaultError> {
    let (Some(memory), Some(relative)) = (input.memory, input.relative) else {
        return Ok(None);
    };
    let recipe = chunks.domain().recipe(relative.archive)?;
    let is_same = recipe.layout.as_ref() == Some(memory.layout());
    let counts = relative.changed.page_count() == memory.layout().page_count();
    Ok(ColdImage::of(chunks, &recipe).filter(|_| is_same && counts))
}

/// How often a recipe is written that is withdrawn each time.
const ATTEMPTS: usize = 4;
