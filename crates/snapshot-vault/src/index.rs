//! Which pack has a record of which chunk.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::domain::Domain;
use crate::error::{FormatError, VaultError};
use crate::fetch::Span;
use crate::frame::{HEAD_BYTES, ObjectHead};
use crate::id::{ChunkId, ObjectId};
use crate::limits::{MAX_PACK_BYTES, MAX_PACKS};
use crate::objects::{ObjectError, ObjectKind};
use crate::pack::{Entry, PackTable, PackTail, Representation, TAIL_BYTES, check_len, scan};

/// The records of all packs of a domain, as of the last [`refresh`](Self::refresh).
///
/// It is made from the packs alone. A pack is good if the last refresh found it in the list of
/// packs and on no tombstone that was listed before; the index of a reader has no good packs.
#[derive(Debug)]
pub(crate) struct Index {
    purpose: Purpose,
    zero: ChunkId,
    packs: Vec<Pack>,
    by_id: HashMap<ObjectId, u32>,
    records: Vec<Chained>,
    /// The last record of each chunk; the others follow by `before`.
    chunks: HashMap<ChunkId, u32>,
    tombstones: Vec<(ObjectId, BTreeSet<ObjectId>)>,
    /// Packs whose table cannot be read, and why. Records whose heads are right are read from.
    damaged: BTreeMap<ObjectId, FormatError>,
}

/// What an index is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    /// Reading: no tombstone is looked at, so that none can keep a reader out, and no pack counted on.
    Read,
    /// Writing and collecting: good packs are counted on, and every tombstone must be readable.
    Count,
}

/// A record and the pack that it is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Located {
    pub(crate) pack: ObjectId,
    pub(crate) entry: Entry,
}

/// How a chunk can be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// It is zero.
    Zero,
    /// A full record.
    Full(Located),
    /// A delta of the chunk of zeros.
    OverZero(Located),
    /// A delta, and a full record of its base.
    Over {
        /// The delta.
        delta: Located,
        /// The base.
        base: Located,
    },
}

#[derive(Debug)]
struct Pack {
    id: ObjectId,
    len_bytes: u64,
    state: PackState,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum PackState {
    Good,
    /// There, and not to be counted on: condemned, damaged, or in the index of a reader.
    Uncounted,
    Gone,
}

#[derive(Clone, Copy, Debug)]
struct Chained {
    pack: u32,
    entry: Entry,
    before: Option<u32>,
}

/// Which packs a lookup takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Which {
    /// Good ones: what a writer and a collector count on.
    Good,
    /// All that are there: what a reader reads from, good ones first.
    Any,
}

impl Index {
    /// An index of no packs.
    pub(crate) fn new(domain: &Domain, purpose: Purpose) -> Self {
        Self {
            purpose,
            zero: domain.secrets().zero(),
            packs: Vec::new(),
            by_id: HashMap::new(),
            records: Vec::new(),
            chunks: HashMap::new(),
            tombstones: Vec::new(),
            damaged: BTreeMap::new(),
        }
    }

    /// Lists tombstones, but not for a reader, then packs, and reads the tables of packs that are new.
    pub(crate) fn refresh(&mut self, domain: &Domain) -> Result<(), VaultError> {
        // The order is what the proof of page 41 rests on.
        self.tombstones = match self.purpose {
            Purpose::Read => Vec::new(),
            Purpose::Count => domain.tombstones()?,
        };
        let listed = domain.list(ObjectKind::Pack)?;
        if listed.len() > MAX_PACKS {
            return Err(VaultError::TooMany {
                what: "packs",
                found: listed.len() as u64,
                limit: MAX_PACKS as u64,
            });
        }
        let there: BTreeSet<ObjectId> = listed.iter().map(|(id, _)| *id).collect();
        self.damaged.retain(|id, _| there.contains(id));
        for (id, len_bytes) in listed {
            if self.by_id.contains_key(&id) {
                continue;
            }
            match read_table(domain, id, len_bytes) {
                Ok(table) => self.add(id, len_bytes, &table),
                // Deleted since it was listed: as if it had not been in the list.
                Err(error) if error.is_missing_object() => {}
                Err(VaultError::Damaged { source, .. }) => {
                    self.damaged.insert(id, source);
                    let table = salvage(domain, id, len_bytes)?;
                    self.add(id, len_bytes, &table);
                }
                Err(error) => return Err(error),
            }
        }
        for pack in &mut self.packs {
            let is_counted = self.purpose == Purpose::Count;
            let mut tombstones = self.tombstones.iter();
            let is_condemned = tombstones.any(|(_, packs)| packs.contains(&pack.id));
            pack.state = if !there.contains(&pack.id) {
                PackState::Gone
            } else if !is_counted || is_condemned || self.damaged.contains_key(&pack.id) {
                PackState::Uncounted
            } else {
                PackState::Good
            };
        }
        Ok(())
    }

    /// Adds a pack that was just put.
    pub(crate) fn add(&mut self, id: ObjectId, len_bytes: u64, table: &PackTable) {
        let (Ok(pack), Ok(mut record)) = (
            u32::try_from(self.packs.len()),
            u32::try_from(self.records.len()),
        ) else {
            // Four thousand million records: chunks that are not found are stored again.
            return;
        };
        self.packs.push(Pack {
            id,
            len_bytes,
            state: PackState::Good,
        });
        self.by_id.insert(id, pack);
        for entry in &table.entries {
            let before = self.chunks.insert(entry.id, record);
            self.records.push(Chained {
                pack,
                entry: *entry,
                before,
            });
            record = record.saturating_add(1);
        }
    }

    /// How a chunk can be had from good packs.
    pub(crate) fn find(&self, id: ChunkId) -> Option<Way> {
        self.ways(id, Which::Good).next()
    }

    /// Whether a chunk is available from good packs.
    pub(crate) fn is_available(&self, id: ChunkId) -> bool {
        self.find(id).is_some()
    }

    /// Every way in which a chunk can be had, the best first: full records before deltas.
    pub(crate) fn ways(&self, id: ChunkId, from: Which) -> impl Iterator<Item = Way> + '_ {
        let zero = (id == self.zero).then_some(Way::Zero);
        let full = self
            .located(id, from)
            .filter(|located| is_full(&located.entry));
        let deltas = self.located(id, from).filter_map(move |delta| {
            let base = delta.entry.representation.base()?;
            if base == self.zero {
                return Some(Way::OverZero(delta));
            }
            let mut bases = self.located(base, from);
            let base = bases.find(|located| is_full(&located.entry))?;
            Some(Way::Over { delta, base })
        });
        zero.into_iter().chain(full.map(Way::Full)).chain(deltas)
    }

    /// The records of a chunk.
    pub(crate) fn located(&self, id: ChunkId, from: Which) -> impl Iterator<Item = Located> + '_ {
        let good = self.in_state(id, PackState::Good);
        let others = self.in_state(id, PackState::Uncounted);
        good.chain(others.filter(move |_| from == Which::Any))
    }

    fn in_state(&self, id: ChunkId, state: PackState) -> impl Iterator<Item = Located> + '_ {
        let mut next = self.chunks.get(&id).copied();
        std::iter::from_fn(move || {
            loop {
                let chained = self.records.get(next? as usize)?;
                next = chained.before;
                let pack = self.packs.get(chained.pack as usize)?;
                if pack.state == state {
                    return Some(Located {
                        pack: pack.id,
                        entry: chained.entry,
                    });
                }
            }
        })
    }

    /// Every record of every pack that is there.
    pub(crate) fn records(&self) -> impl Iterator<Item = Located> + '_ {
        self.records.iter().filter_map(|chained| {
            let pack = self.packs.get(chained.pack as usize)?;
            let is_there = pack.state != PackState::Gone;
            is_there.then_some(Located {
                pack: pack.id,
                entry: chained.entry,
            })
        })
    }

    /// Good packs, with their lengths in bytes.
    pub(crate) fn good_packs(&self) -> impl Iterator<Item = (ObjectId, u64)> + '_ {
        let good = self
            .packs
            .iter()
            .filter(|pack| pack.state == PackState::Good);
        good.map(|pack| (pack.id, pack.len_bytes))
    }

    /// The tombstones of the last refresh.
    pub(crate) fn tombstones(&self) -> &[(ObjectId, BTreeSet<ObjectId>)] {
        &self.tombstones
    }

    /// Packs whose table cannot be read, and why.
    pub(crate) const fn damaged(&self) -> &BTreeMap<ObjectId, FormatError> {
        &self.damaged
    }
}

impl Located {
    /// Where its payload is.
    pub(crate) const fn payload(&self) -> Span {
        Span {
            pack: self.pack,
            start: self.entry.payload_offset(),
            end: self.entry.end(),
        }
    }

    /// Where all of the record is.
    pub(crate) const fn whole(&self) -> Span {
        Span {
            pack: self.pack,
            start: self.entry.offset as u64,
            end: self.entry.end(),
        }
    }
}

impl Way {
    /// The records that it takes: the chunk's own, then its base's.
    pub(crate) const fn records(&self) -> [Option<Located>; 2] {
        match *self {
            Self::Zero => [None, None],
            Self::Full(own) | Self::OverZero(own) => [Some(own), None],
            Self::Over { delta, base } => [Some(delta), Some(base)],
        }
    }
}

fn is_full(entry: &Entry) -> bool {
    entry.representation == Representation::Full
}

/// The records of a pack whose table is damaged, as far as their heads are right.
fn salvage(domain: &Domain, id: ObjectId, len_bytes: u64) -> Result<PackTable, VaultError> {
    let name = domain.name(ObjectKind::Pack, id);
    let len = usize::try_from(len_bytes.min(MAX_PACK_BYTES)).unwrap_or_default();
    let mut bytes = vec![0; len];
    let found = match domain.objects().get(&name, 0, &mut bytes) {
        Err(ObjectError::NotFound) => 0,
        found => found.map_err(VaultError::object_at("get", &name))?,
    };
    bytes.truncate(found);
    let is_own = ObjectHead::parse(&bytes, ObjectKind::Pack, domain.id(), id).is_ok();
    if !is_own {
        bytes.clear();
    }
    Ok(scan(&bytes))
}

/// Reads head, tail and table of a pack.
fn read_table(domain: &Domain, id: ObjectId, len_bytes: u64) -> Result<PackTable, VaultError> {
    let name = domain.name(ObjectKind::Pack, id);
    let damaged = || VaultError::damaged(&name);
    let get = |offset: u64, len: usize| -> Result<Vec<u8>, VaultError> {
        let mut bytes = vec![0; len];
        let found = domain.objects().get(&name, offset, &mut bytes);
        let found = found.map_err(VaultError::object_at("get", &name))?;
        if found < len {
            return Err(damaged()(FormatError::Short {
                offset,
                needed: len as u64,
                found: found as u64,
            }));
        }
        Ok(bytes)
    };
    let head_bytes = get(0, HEAD_BYTES)?;
    let head = ObjectHead::parse(&head_bytes, ObjectKind::Pack, domain.id(), id);
    let head = head.map_err(damaged())?;
    check_len(&head, len_bytes).map_err(damaged())?;
    let Some(tail_offset) = len_bytes.checked_sub(TAIL_BYTES as u64) else {
        return Err(damaged()(FormatError::Short {
            offset: 0,
            needed: TAIL_BYTES as u64,
            found: len_bytes,
        }));
    };
    let tail = PackTail::parse(&get(tail_offset, TAIL_BYTES)?, len_bytes).map_err(damaged())?;
    let table = get(tail.table_offset, tail.table_len())?;
    let key = domain.secrets().object_key();
    PackTable::parse(&head_bytes, &table, &tail, key).map_err(damaged())
}

#[cfg(test)]
mod tests;
