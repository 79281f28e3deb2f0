//! Which packs are to go.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::mark::Needed;
use crate::domain::Domain;
use crate::error::VaultError;
use crate::fetch::Chunks;
use crate::id::{ChunkId, ObjectId};
use crate::index::Purpose;
use crate::limits::MAX_CONDEMNED;
use crate::objects::ObjectKind;

/// What a collection does.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CollectOptions {
    /// Packs of which less than this part is needed are copied and go: in hundredths. 0 copies
    /// nothing, unless somebody else condemned packs.
    pub copy_below_percent: u8,
    /// Bytes that are copied at most, for the packs that this collection chooses.
    pub max_copied_bytes: u64,
    /// Expires what is in the trash.
    pub expire_trash: bool,
    /// Withdraws recipes without a commit: those of writers that died. A writer that lives archives
    /// again.
    pub withdraw_unfinished: bool,
    /// The packs that the collection before saw. Others are left alone: their writers may not have
    /// put a recipe yet. Nothing rests on it but the writers' time.
    pub seen_before: Option<BTreeSet<ObjectId>>,
}

/// What a collection would do now.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct CollectPlan {
    /// Packs that would go, ascending by id.
    pub condemned: Vec<CondemnedPack>,
    /// Bytes of packs that would stay.
    pub kept_bytes: u64,
    /// All packs that there are: for [`CollectOptions::seen_before`] of the next collection.
    pub seen: BTreeSet<ObjectId>,
}

/// A pack that would go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct CondemnedPack {
    /// The pack.
    pub id: ObjectId,
    /// Its length in bytes.
    pub len_bytes: u64,
    /// Bytes of its records that are needed, and would be copied.
    pub needed_bytes: u64,
}

impl Default for CollectOptions {
    fn default() -> Self {
        Self {
            copy_below_percent: 50,
            max_copied_bytes: u64::MAX,
            expire_trash: false,
            withdraw_unfinished: false,
            seen_before: None,
        }
    }
}

impl CollectPlan {
    /// Bytes that would be free in the end, but for the heads of new packs.
    #[must_use]
    pub fn freed_bytes(&self) -> u64 {
        let freed = self.condemned.iter();
        freed
            .map(|pack| pack.len_bytes.saturating_sub(pack.needed_bytes))
            .sum()
    }
}

impl Domain {
    /// What a collection would do now, without what is in the trash going.
    pub fn plan_collection(&self, options: &CollectOptions) -> Result<CollectPlan, VaultError> {
        let chunks = Chunks::load(self, Purpose::Count)?;
        refuse_damage(&chunks)?;
        let needed = Needed::mark(self, &chunks)?;
        Ok(choose(&chunks, &needed, options))
    }
}

/// Chooses packs to go. Those of which nothing is needed come first, whatever is copied.
pub(super) fn choose(chunks: &Chunks, needed: &Needed, options: &CollectOptions) -> CollectPlan {
    let in_use = needed_bytes(chunks, &needed.chunks);
    let index = chunks.index();
    let mut plan = CollectPlan::default();
    let mut candidates = Vec::new();
    for (id, len_bytes) in index.good_packs() {
        plan.seen.insert(id);
        plan.kept_bytes += len_bytes;
        let needed_bytes = in_use.get(&id).copied().unwrap_or(0);
        let percent = u64::from(options.copy_below_percent.min(100));
        let is_wasteful = needed_bytes == 0
            || needed_bytes.saturating_mul(100) < len_bytes.saturating_mul(percent);
        let was_seen = options
            .seen_before
            .as_ref()
            .is_none_or(|seen| seen.contains(&id));
        if is_wasteful && was_seen {
            candidates.push(CondemnedPack {
                id,
                len_bytes,
                needed_bytes,
            });
        }
    }
    candidates.sort_by_key(|pack| (pack.needed_bytes, pack.id));
    let mut copied = 0_u64;
    for pack in candidates.into_iter().take(MAX_CONDEMNED) {
        copied = copied.saturating_add(pack.needed_bytes);
        if copied <= options.max_copied_bytes {
            plan.kept_bytes -= pack.len_bytes;
            plan.condemned.push(pack);
        }
    }
    plan.condemned.sort_by_key(|pack| pack.id);
    plan
}

/// That the table of every pack which is not condemned can be read.
pub(super) fn refuse_damage(chunks: &Chunks) -> Result<(), VaultError> {
    let index = chunks.index();
    let is_condemned = |id: &ObjectId| {
        index
            .tombstones()
            .iter()
            .any(|(_, packs)| packs.contains(id))
    };
    match index.damaged().iter().find(|(id, _)| !is_condemned(id)) {
        None => Ok(()),
        Some((id, error)) => {
            let name = chunks.domain().name(ObjectKind::Pack, *id);
            Err(VaultError::damaged(&name)(error.clone()))
        }
    }
}

/// Bytes of the records, by pack, that the best ways to all needed chunks take.
fn needed_bytes(chunks: &Chunks, needed: &HashSet<ChunkId>) -> BTreeMap<ObjectId, u64> {
    let index = chunks.index();
    let mut seen = HashSet::new();
    let mut bytes: BTreeMap<ObjectId, u64> = BTreeMap::new();
    for id in needed {
        // Not available from good packs: it is copied out of condemned ones, or lost, which the
        // sweep finds.
        let Some(way) = index.find(*id) else {
            continue;
        };
        for located in way.records().into_iter().flatten() {
            if seen.insert((located.pack, located.entry.offset)) {
                let len = located.entry.end() - u64::from(located.entry.offset);
                *bytes.entry(located.pack).or_default() += len;
            }
        }
    }
    bytes
}
