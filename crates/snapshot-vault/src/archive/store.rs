//! Chunks on their way to packs.

use std::collections::{BTreeSet, HashSet};

use crate::chunk::Encoded;
use crate::domain::{ATTEMPTS, Domain};
use crate::error::VaultError;
use crate::fetch::Chunks;
use crate::id::{ChunkId, ObjectId};
use crate::index::Way;
use crate::objects::{ObjectError, ObjectKind};
use crate::pack::{BuiltPack, PackBuilder, Representation};

/// Stores chunks in new packs, each once, and knows which packs what it was given lies in.
#[derive(Debug)]
pub(crate) struct ChunkStore {
    chunks: Chunks,
    pack: Option<PackBuilder>,
    /// Chunks in the pack that is not put yet.
    pending: HashSet<ChunkId>,
    /// Packs that chunks were found in or put into.
    used: BTreeSet<ObjectId>,
    stats: StoreStats,
}

/// What was stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct StoreStats {
    /// Records that were written.
    pub(crate) records: u64,
    /// Of them, those that hold only the pages that differ from another chunk.
    pub(crate) deltas: u64,
    /// Bytes of packs that were put.
    pub(crate) stored_bytes: u64,
}

impl ChunkStore {
    pub(crate) fn new(chunks: &Chunks) -> Self {
        Self {
            chunks: chunks.clone(),
            pack: None,
            pending: HashSet::new(),
            used: BTreeSet::new(),
            stats: StoreStats::default(),
        }
    }

    /// Notes that a chunk is there already, and how.
    pub(crate) fn keep(&mut self, way: Way) {
        let records = way.records().into_iter().flatten();
        self.used.extend(records.map(|located| located.pack));
    }

    /// Stores a chunk, unless it was stored since it was looked for. Who gives a delta keeps its base.
    pub(crate) fn push(&mut self, encoded: &Encoded) -> Result<(), VaultError> {
        let found = self.chunks.index().find(encoded.id);
        if let Some(way) = found {
            self.keep(way);
            return Ok(());
        }
        self.push_anyway(encoded)
    }

    /// Stores a chunk although good packs may have it, in another representation; once in a pack.
    pub(crate) fn push_anyway(&mut self, encoded: &Encoded) -> Result<(), VaultError> {
        if self.pending.contains(&encoded.id) {
            return Ok(());
        }
        if self.pack.as_ref().is_some_and(PackBuilder::is_full) {
            self.flush()?;
        }
        let pack = match &mut self.pack {
            Some(pack) => pack,
            none => none.insert(PackBuilder::new(self.chunks.domain().id())?),
        };
        let Encoded {
            id,
            representation,
            coding,
            bytes,
        } = encoded;
        pack.push(
            *id,
            *representation,
            *coding,
            bytes,
            self.chunks.domain().secrets(),
        )?;
        let is_full = *representation == Representation::Full;
        self.pending.insert(*id);
        self.stats.records += 1;
        self.stats.deltas += u64::from(!is_full);
        Ok(())
    }

    /// Puts the pack that is being filled.
    pub(crate) fn flush(&mut self) -> Result<(), VaultError> {
        let Some(pack) = self.pack.take().filter(|pack| !pack.is_empty()) else {
            return Ok(());
        };
        self.pending.clear();
        let domain = self.chunks.domain();
        let mut built = pack.finish(domain.secrets());
        let mut attempt = 1;
        while let Err(error) = put_once(domain, &built) {
            if attempt == ATTEMPTS {
                return Err(error);
            }
            attempt += 1;
            tracing::debug!(%error, "put again under another id");
            // The call may still happen. A pack that it brought back after it was collected would be
            // deleted once more by whoever is late with that.
            built = built.renewed(domain.id(), domain.secrets())?;
        }
        let len_bytes = built.bytes.len() as u64;
        self.chunks
            .change_index(|index| index.add(built.id, len_bytes, &built.table));
        self.used.insert(built.id);
        self.stats.stored_bytes += len_bytes;
        Ok(())
    }

    /// The packs that what was given lies in.
    pub(crate) const fn used(&self) -> &BTreeSet<ObjectId> {
        &self.used
    }

    /// Begins to note anew which packs are used: everything is going to be given once more.
    pub(crate) fn forget_used(&mut self) {
        self.used.clear();
    }

    pub(crate) const fn stats(&self) -> StoreStats {
        self.stats
    }
}

fn put_once(domain: &Domain, built: &BuiltPack) -> Result<(), VaultError> {
    let name = domain.name(ObjectKind::Pack, built.id);
    match domain.objects().put(&name, &built.bytes) {
        // The id is random, and this is the one call that puts it.
        Ok(()) | Err(ObjectError::Exists) => Ok(()),
        Err(error) => Err(VaultError::object_at("put", &name)(error)),
    }
}
