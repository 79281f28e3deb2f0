//! Chunks out of packs, each checked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use crate::chunk::{Chunk, ChunkDecoder, Found, zero_chunk};
use crate::domain::Domain;
use crate::error::{FormatError, VaultError};
use crate::id::{ChunkId, ObjectId};
use crate::index::{Index, Located, Purpose, Way, Which};
use crate::objects::ObjectKind;

/// The chunks of a domain. A clone has the same index.
#[derive(Clone, Debug)]
pub(crate) struct Chunks {
    domain: Domain,
    index: Arc<RwLock<Index>>,
    decoders: Arc<Mutex<Vec<ChunkDecoder>>>,
}

/// Bytes of packs, read in as few calls as they allow.
#[derive(Debug)]
pub(crate) struct Runs {
    /// By pack, and where they start in it; empty where they cannot be read.
    runs: BTreeMap<(ObjectId, u64), Vec<u8>>,
}

/// Bytes of a pack: where they start, and one past the last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Span {
    pub(crate) pack: ObjectId,
    pub(crate) start: u64,
    pub(crate) end: u64,
}

impl Chunks {
    /// The chunks that the packs of a domain hold now.
    pub(crate) fn load(domain: &Domain, purpose: Purpose) -> Result<Self, VaultError> {
        let mut index = Index::new(domain, purpose);
        index.refresh(domain)?;
        Ok(Self {
            domain: domain.clone(),
            index: Arc::new(RwLock::new(index)),
            decoders: Arc::default(),
        })
    }

    pub(crate) const fn domain(&self) -> &Domain {
        &self.domain
    }

    /// The index, as it is.
    pub(crate) fn index(&self) -> RwLockReadGuard<'_, Index> {
        // An index that a panic left has at worst fewer chunks than there are.
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the index.
    pub(crate) fn change_index<T>(&self, change: impl FnOnce(&mut Index) -> T) -> T {
        change(&mut self.index.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lists anew what the index is made from.
    pub(crate) fn refresh(&self) -> Result<(), VaultError> {
        self.change_index(|index| index.refresh(&self.domain))
    }

    /// Gives the bytes of chunks, checked, in the order in which they are wanted, with their
    /// numbers. Reads are as few and as long as the packs allow.
    pub(crate) fn fetch(
        &self,
        wanted: &[ChunkId],
        each: &mut dyn FnMut(usize, &Chunk),
    ) -> Result<(), VaultError> {
        let mut decoder = self.decoder();
        let mut chunk = zero_chunk();
        for (batch, first) in wanted.chunks(BATCH).zip((0..).step_by(BATCH)) {
            let ways: Vec<Option<Way>> = {
                let index = self.index();
                let ways = batch.iter().map(|id| index.ways(*id, Which::Any).next());
                ways.collect()
            };
            let records = ways.iter().flatten().flat_map(Way::records).flatten();
            let runs = self.read_spans(records.map(|located| located.payload()).collect());
            for ((id, way), number) in batch.iter().zip(&ways).zip(first..) {
                let quick = way.is_some_and(|way| {
                    let stored = |located: &Located| runs.get(located.payload());
                    self.make(way, &stored, &mut decoder, &mut chunk).is_ok()
                });
                if !quick {
                    self.fetch_one(*id, &mut decoder, &mut chunk)?;
                }
                each(number, &chunk);
            }
        }
        self.leave(decoder);
        Ok(())
    }

    /// Puts one chunk into `chunk`, from whichever records can be read.
    pub(crate) fn fetch_one(
        &self,
        id: ChunkId,
        decoder: &mut ChunkDecoder,
        chunk: &mut Chunk,
    ) -> Result<(), VaultError> {
        let mut last = None;
        for attempt in 0..ATTEMPTS {
            let is_damage = |error: &VaultError| !error.is_missing_object();
            if attempt > 1 && last.as_ref().is_some_and(is_damage) {
                // It is not packs that move: what is there is damaged.
                break;
            }
            if attempt > 0 {
                // Its pack may have been collected, and the chunk be in another one now.
                self.refresh()?;
            }
            let ways: Vec<Way> = self.index().ways(id, Which::Any).collect();
            for way in ways {
                let [own, base] = way.records().map(|located| {
                    let located = located?;
                    Some((located, self.read_range(located.payload())))
                });
                let mut read = Vec::new();
                for (located, bytes) in [own, base].into_iter().flatten() {
                    match bytes {
                        Ok(bytes) => read.push((located, bytes)),
                        Err(error) => last = Some(error),
                    }
                }
                let stored = |located: &Located| {
                    let mut read = read.iter();
                    let found = read.find(|(found, _)| found == located);
                    found.map(|(_, bytes)| bytes.as_slice())
                };
                match self.make(way, &stored, decoder, chunk) {
                    Ok(()) => return Ok(()),
                    Err(Some(error)) => last = Some(error),
                    Err(None) => {}
                }
            }
        }
        Err(VaultError::Lost {
            domain: self.domain.id(),
            id,
            source: last.map(Box::new),
        })
    }

    /// Makes a chunk of payloads, and checks its id. `None`: a payload could not be read.
    pub(crate) fn make<'s>(
        &self,
        way: Way,
        stored: &dyn Fn(&Located) -> Option<&'s [u8]>,
        decoder: &mut ChunkDecoder,
        chunk: &mut Chunk,
    ) -> Result<(), Option<VaultError>> {
        let (base, own) = match way {
            Way::Zero => {
                chunk.fill(0);
                return Ok(());
            }
            Way::Full(own) => (None, own),
            Way::OverZero(own) => {
                chunk.fill(0);
                (None, own)
            }
            Way::Over { delta, base } => (Some(base), delta),
        };
        for located in base.into_iter().chain([own]) {
            let stored = stored(&located).ok_or(None::<VaultError>)?;
            self.apply(&located, stored, decoder, chunk).map_err(Some)?;
        }
        self.check_id(&own, chunk).map_err(Some)
    }

    /// Puts what a record holds into `chunk`, over what is there.
    pub(crate) fn apply(
        &self,
        located: &Located,
        stored: &[u8],
        decoder: &mut ChunkDecoder,
        chunk: &mut Chunk,
    ) -> Result<(), VaultError> {
        let found = Found {
            domain: self.domain.id(),
            pack: located.pack,
            entry: &located.entry,
            stored,
        };
        let decoded = decoder.decode(found, self.domain.secrets(), chunk);
        decoded.map_err(|error| self.damaged(located, error))
    }

    /// That a chunk is the one of its record.
    pub(crate) fn check_id(&self, located: &Located, chunk: &Chunk) -> Result<(), VaultError> {
        if self.domain.secrets().chunk_id(chunk.as_slice()) == located.entry.id {
            return Ok(());
        }
        let rule = "the chunk of a record has the record's id";
        let error = FormatError::invalid(u64::from(located.entry.offset), rule, 0);
        Err(self.damaged(located, error))
    }

    pub(crate) fn damaged(&self, located: &Located, error: FormatError) -> VaultError {
        let name = self.domain.name(ObjectKind::Pack, located.pack);
        VaultError::damaged(&name)(error)
    }

    /// Reads bytes of packs; what cannot be read is left out.
    pub(crate) fn read_spans(&self, mut spans: Vec<Span>) -> Runs {
        spans.sort_unstable();
        let mut runs: Vec<Span> = Vec::new();
        for span in spans {
            match runs.last_mut() {
                Some(last)
                    if last.pack == span.pack
                        && span.start <= last.end + GAP_BYTES
                        && span.end - last.start <= RUN_BYTES =>
                {
                    last.end = span.end.max(last.end);
                }
                _ => runs.push(span),
            }
        }
        let read = runs.into_iter().map(|span| {
            let bytes = self.read_range(span).unwrap_or_default();
            ((span.pack, span.start), bytes)
        });
        Runs {
            runs: read.collect(),
        }
    }

    fn read_range(&self, span: Span) -> Result<Vec<u8>, VaultError> {
        let name = self.domain.name(ObjectKind::Pack, span.pack);
        let len = span.end.saturating_sub(span.start);
        let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
        let found = self.domain.objects().get(&name, span.start, &mut bytes);
        let found = found.map_err(VaultError::object_at("get", &name))?;
        if found == bytes.len() {
            return Ok(bytes);
        }
        Err(VaultError::damaged(&name)(FormatError::Short {
            offset: span.start,
            needed: len,
            found: found as u64,
        }))
    }

    /// A decoder that nobody uses.
    pub(crate) fn decoder(&self) -> ChunkDecoder {
        let mut decoders = self.decoders.lock().unwrap_or_else(PoisonError::into_inner);
        decoders.pop().unwrap_or_default()
    }

    pub(crate) fn leave(&self, decoder: ChunkDecoder) {
        let mut decoders = self.decoders.lock().unwrap_or_else(PoisonError::into_inner);
        if decoders.len() < MAX_IDLE {
            decoders.push(decoder);
        }
    }
}

impl Runs {
    /// Bytes that were asked for; `None` where they cannot be read.
    pub(crate) fn get(&self, span: Span) -> Option<&[u8]> {
        let mut before = self.runs.range(..=(span.pack, span.start));
        let ((pack, start), bytes) = before.next_back()?;
        let from = usize::try_from(span.start.checked_sub(*start)?).ok()?;
        let len = usize::try_from(span.end.checked_sub(span.start)?).ok()?;
        let bytes = bytes.get(from..from.checked_add(len)?);
        bytes.filter(|_| *pack == span.pack)
    }
}

/// Chunks that are read at once: up to 16 MiB.
const BATCH: usize = 256;

/// Bytes between two payloads that are read along: less than another call costs.
const GAP_BYTES: u64 = 64 << 10;

/// Bytes of one read.
const RUN_BYTES: u64 = 4 << 20;

/// How often packs are looked up for a chunk: once, and again after listing them, as what a list
/// names may be gone when it is read.
const ATTEMPTS: usize = 8;

/// Decoders that are kept.
const MAX_IDLE: usize = 8;

#[cfg(test)]
mod tests;
