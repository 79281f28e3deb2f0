//! Checking everything that a domain holds.

use std::collections::{BTreeSet, HashMap};

use crate::chunk::{Chunk, ChunkDecoder, zero_chunk};
use crate::domain::Domain;
use crate::error::{FormatError, VaultError};
use crate::fetch::{Chunks, Runs};
use crate::id::{ChunkId, ObjectId};
use crate::image::read_leaf;
use crate::index::{Located, Purpose, Way, Which};
use crate::objects::ObjectKind;
use crate::pack::{RECORD_BYTES, Representation, parse_record};
use crate::share::share;

/// What a verification found.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct VaultReport {
    /// Packs that were read.
    pub packs: u64,
    /// Records that were decoded, and whose chunks have the ids that they must have.
    pub records: u64,
    /// Bytes of these records.
    pub bytes: u64,
    /// Recipes that were read, with all of their leaves.
    pub recipes: u64,
    /// Archives that need a chunk which no pack has.
    pub incomplete: Vec<(ObjectId, ChunkId)>,
    /// What is wrong, each with its object and offset.
    pub problems: Vec<VaultError>,
}

/// A full record, and the deltas of it: the base is decoded once.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Family {
    /// `None`: the chunk of zeros.
    base: Option<Located>,
    deltas: Vec<Located>,
}

/// Checks families, one after the other.
struct Checker<'a> {
    chunks: &'a Chunks,
    decoder: ChunkDecoder,
    report: VaultReport,
}

impl VaultReport {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.problems.is_empty() && self.incomplete.is_empty()
    }

    fn merge(&mut self, other: Self) {
        self.records += other.records;
        self.bytes += other.bytes;
        self.problems.extend(other.problems);
    }
}

impl Domain {
    /// Reads every byte of every pack, decodes every record and checks its chunk, then looks
    /// for every chunk that recipes need. `threads` decode, beside the caller's thread. It goes on
    /// after whatever it finds, and tells of it in the order of the packs.
    pub fn verify(&self, threads: usize) -> Result<VaultReport, VaultError> {
        let span = tracing::info_span!("verify", domain = %self.id());
        let _inside = span.enter();
        let chunks = Chunks::load(self, Purpose::Read)?;
        let mut report = VaultReport::default();
        let families = families(&chunks, &mut report);
        let batches: Vec<&[Family]> = families.chunks(BATCH).collect();
        let check = |checker: &mut Checker<'_>, number: usize| {
            if let Some(batch) = batches.get(number) {
                checker.check(batch);
            }
            std::mem::take(&mut checker.report)
        };
        let worker = || Checker::new(&chunks);
        for part in share("vmsnap-verify", threads, batches.len(), worker, check) {
            report.merge(part);
        }
        self.verify_marks(&mut report)?;
        self.verify_recipes(&chunks, &mut report)?;
        Ok(report)
    }

    /// Reads the objects that say something by being there.
    fn verify_marks(&self, report: &mut VaultReport) -> Result<(), VaultError> {
        for kind in MARKS {
            for (id, _) in self.list(kind)? {
                let read = match kind {
                    ObjectKind::Tombstone => self.tombstone(id).map(drop),
                    _ => self.get(kind, id).map(drop),
                };
                match read {
                    Err(error) if error.is_missing_object() => {}
                    Err(error) => report.problems.push(error),
                    Ok(()) => {}
                }
            }
        }
        Ok(())
    }

    /// Reads every recipe with its leaves, and looks for what they need.
    fn verify_recipes(&self, chunks: &Chunks, report: &mut VaultReport) -> Result<(), VaultError> {
        let commits = self.ids(ObjectKind::Commit)?;
        let mut leaves: HashMap<ChunkId, Option<ChunkId>> = HashMap::new();
        for (id, _) in self.list(ObjectKind::Recipe)? {
            let recipe = match self.recipe(id) {
                Err(VaultError::NotFound { .. }) => continue,
                Err(error) => {
                    report.problems.push(error);
                    continue;
                }
                Ok(recipe) => recipe,
            };
            report.recipes += 1;
            if !commits.contains(&id) {
                // Nothing is promised of it: its writer goes on, or has died.
                continue;
            }
            let is_lost = |id: &ChunkId| chunks.index().ways(*id, Which::Any).next().is_none();
            let mut lost = recipe.chunks().find(is_lost);
            for (_, leaf) in &recipe.leaves {
                let known = leaves.get(leaf).copied();
                let in_leaf = match known {
                    Some(found) => found,
                    None => match read_leaf(chunks, *leaf) {
                        Ok(leaf) => leaf.chunks.into_iter().flatten().find(is_lost),
                        Err(error) => {
                            report.problems.push(error);
                            Some(*leaf)
                        }
                    },
                };
                leaves.insert(*leaf, in_leaf);
                lost = lost.or(in_leaf);
            }
            if let Some(chunk) = lost {
                report.incomplete.push((id, chunk));
            }
        }
        Ok(())
    }
}

/// All records, deltas with their bases, in the order of the packs. Packs whose table cannot be read
/// and deltas without a base are problems.
fn families(chunks: &Chunks, report: &mut VaultReport) -> Vec<Family> {
    let zero = chunks.domain().secrets().zero();
    let index = chunks.index();
    let mut deltas: HashMap<ChunkId, Vec<Located>> = HashMap::new();
    let mut full = Vec::new();
    let mut packs = BTreeSet::new();
    for located in index.records() {
        packs.insert(located.pack);
        match located.entry.representation {
            Representation::Full => full.push(located),
            Representation::Delta { base, .. } => deltas.entry(base).or_default().push(located),
        }
    }
    report.packs = packs.len() as u64;
    full.sort_unstable_by_key(|located| (located.pack, located.entry.offset));
    let mut families = Vec::with_capacity(full.len() + 1);
    if let Some(deltas) = deltas.remove(&zero) {
        families.push(Family { base: None, deltas });
    }
    for located in full {
        // Other records of the same base have no deltas left to check.
        let deltas = deltas.remove(&located.entry.id).unwrap_or_default();
        let base = Some(located);
        families.push(Family { base, deltas });
    }
    for located in deltas.into_values().flatten() {
        let rule = "the base of a delta has a full record";
        let error = FormatError::invalid(u64::from(located.entry.offset), rule, 0);
        report.problems.push(chunks.damaged(&located, error));
    }
    for (id, error) in index.damaged() {
        let name = chunks.domain().name(ObjectKind::Pack, *id);
        report
            .problems
            .push(VaultError::damaged(&name)(error.clone()));
    }
    families
}

impl<'a> Checker<'a> {
    fn new(chunks: &'a Chunks) -> Self {
        Self {
            chunks,
            decoder: chunks.decoder(),
            report: VaultReport::default(),
        }
    }

    fn check(&mut self, families: &[Family]) {
        let records = families.iter();
        let records = records.flat_map(|family| family.base.iter().chain(&family.deltas));
        let runs = self
            .chunks
            .read_spans(records.map(Located::whole).collect());
        let (mut base, mut chunk) = (zero_chunk(), zero_chunk());
        for family in families {
            match family.base {
                None => base.fill(0),
                Some(located) => {
                    let way = Way::Full(located);
                    if !self.check_record(&runs, located, way, &mut base) {
                        // Its deltas may be sound, and cannot be told to be.
                        continue;
                    }
                }
            }
            for delta in &family.deltas {
                *chunk = *base;
                self.check_delta(&runs, *delta, &mut chunk);
            }
        }
    }

    /// Checks head and payload of a record that stands alone.
    fn check_record(&mut self, runs: &Runs, located: Located, way: Way, chunk: &mut Chunk) -> bool {
        let head = self.check_head(runs, located);
        let stored = |located: &Located| runs.get(located.payload());
        let made = head.and_then(|()| {
            let made = self.chunks.make(way, &stored, &mut self.decoder, chunk);
            made.map_err(|error| error.unwrap_or_else(|| self.unread(located)))
        });
        self.note(located, made)
    }

    /// Checks a delta; `chunk` holds its base.
    fn check_delta(&mut self, runs: &Runs, located: Located, chunk: &mut Chunk) -> bool {
        let head = self.check_head(runs, located);
        let made = head.and_then(|()| {
            let stored = runs
                .get(located.payload())
                .ok_or_else(|| self.unread(located))?;
            self.chunks
                .apply(&located, stored, &mut self.decoder, chunk)?;
            self.chunks.check_id(&located, chunk)
        });
        self.note(located, made)
    }

    /// That the head of the record is what the table says.
    fn check_head(&self, runs: &Runs, located: Located) -> Result<(), VaultError> {
        let record = runs
            .get(located.whole())
            .ok_or_else(|| self.unread(located))?;
        let head = record.get(..RECORD_BYTES).unwrap_or_default();
        let parsed = parse_record(head, located.entry.offset);
        let parsed = parsed.map_err(|error| self.chunks.damaged(&located, error))?;
        if parsed == located.entry {
            return Ok(());
        }
        let rule = "the head of a record is what the table says";
        let error = FormatError::invalid(u64::from(located.entry.offset), rule, 0);
        Err(self.chunks.damaged(&located, error))
    }

    fn unread(&self, located: Located) -> VaultError {
        let error = FormatError::Payload {
            offset: u64::from(located.entry.offset),
            what: "get read: the pack is cut, or its store failed",
        };
        self.chunks.damaged(&located, error)
    }

    fn note(&mut self, located: Located, made: Result<(), VaultError>) -> bool {
        let is_right = made.is_ok();
        match made {
            Ok(()) => {
                let whole = located.whole();
                self.report.records += 1;
                self.report.bytes += whole.end - whole.start;
            }
            Err(error) => self.report.problems.push(error),
        }
        is_right
    }
}

/// What says something by being there.
const MARKS: [ObjectKind; 5] = [
    ObjectKind::Tombstone,
    ObjectKind::Commit,
    ObjectKind::Withdrawal,
    ObjectKind::Trash,
    ObjectKind::Lease,
];

/// Families that are read at once: some 2 MiB, which stay in a core's cache until they are decoded.
const BATCH: usize = 64;

#[cfg(test)]
mod tests;
