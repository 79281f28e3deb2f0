//! The steps of a collection, in the order that page 41 proves.

use std::collections::{BTreeMap, BTreeSet};

use super::mark::Needed;
use super::plan::{self, CollectOptions};
use crate::archive::{ArchiveOptions, ChunkStore};
use crate::chunk::{ChunkEncoder, zero_chunk};
use crate::domain::Domain;
use crate::error::VaultError;
use crate::fetch::Chunks;
use crate::id::{ChunkId, ObjectId};
use crate::index::{Purpose, Way, Which};
use crate::objects::ObjectKind;
use crate::pack::Representation;
use crate::tombstone;

/// What a collection did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Collected {
    /// Packs that were deleted, by this collection first.
    pub deleted_packs: u64,
    /// Chunks that were copied to new packs.
    pub copied_chunks: u64,
    /// Bytes of these packs.
    pub copied_bytes: u64,
    /// Archives in the trash that were expired.
    pub expired: u64,
    /// Recipes without a commit that were withdrawn.
    pub withdrawn: u64,
    /// Packs that there were: for [`CollectOptions::seen_before`] of the next collection.
    pub seen: BTreeSet<ObjectId>,
}

impl Domain {
    /// Collects what no archive needs, and ends the collections that others left.
    ///
    /// It may be stopped at any moment, by whatever means, and be run again, also beside others.
    pub fn collect(&self, options: &CollectOptions) -> Result<Collected, VaultError> {
        let span = tracing::info_span!("collect", domain = %self.id());
        let _inside = span.enter();
        let mut collected = Collected::default();
        if options.expire_trash {
            collected.expired = self.expire_trash()?;
        }
        if options.withdraw_unfinished {
            collected.withdrawn = self.withdraw_unfinished()?;
        }
        // What takes no room comes first, so that a full store has some for the rest.
        let dead = CollectOptions {
            copy_below_percent: 0,
            max_copied_bytes: 0,
            ..options.clone()
        };
        self.collect_once(&dead, &mut collected)?;
        if options.copy_below_percent > 0 {
            self.collect_once(options, &mut collected)?;
        }
        Ok(collected)
    }

    fn collect_once(
        &self,
        options: &CollectOptions,
        collected: &mut Collected,
    ) -> Result<(), VaultError> {
        // Step 1.
        let chunks = Chunks::load(self, Purpose::Count)?;
        plan::refuse_damage(&chunks)?;
        let needed = Needed::mark(self, &chunks)?;
        let plan = plan::choose(&chunks, &needed, options);
        drop(needed);
        collected.seen.extend(&plan.seen);
        let packs: BTreeSet<ObjectId> = plan.condemned.iter().map(|pack| pack.id).collect();
        if packs.is_empty() && chunks.index().tombstones().is_empty() {
            return Ok(());
        }
        // Step 2.
        if !packs.is_empty() {
            let id = ObjectId::random()?;
            self.put(ObjectKind::Tombstone, id, &tombstone::encode(&packs))?;
        }
        // Steps 3 and 4.
        for _ in 0..ATTEMPTS {
            chunks.refresh()?;
            // Those that were there before recipes are listed below; reading leaves may list anew.
            let tombstones = chunks.index().tombstones().to_vec();
            plan::refuse_damage(&chunks)?;
            let needed = Needed::mark(self, &chunks)?;
            let missing: BTreeSet<ChunkId> = {
                let index = chunks.index();
                let needed = needed.chunks.iter().copied();
                needed.filter(|id| !index.is_available(*id)).collect()
            };
            if missing.is_empty() {
                return self.bury(tombstones, collected);
            }
            match copy(&chunks, &missing, collected) {
                Err(VaultError::Lost { id, .. }) if needed.withdraw_those_with(self, id)? => {}
                copied => copied?,
            }
        }
        Err(VaultError::Overtaken)
    }

    /// Steps 5 and 6, for every tombstone of the lists that step 3 began with.
    fn bury(
        &self,
        tombstones: Vec<(ObjectId, BTreeSet<ObjectId>)>,
        collected: &mut Collected,
    ) -> Result<(), VaultError> {
        let there = self.ids(ObjectKind::Pack)?;
        for (id, packs) in tombstones {
            for pack in packs {
                self.delete(ObjectKind::Pack, pack)?;
                collected.deleted_packs += u64::from(there.contains(&pack));
            }
            self.delete(ObjectKind::Tombstone, id)?;
        }
        Ok(())
    }

    /// Deletes what is in the trash: recipe, commit, then the trash object, so that one who dies in
    /// between leaves an archive that is in the trash, or none.
    fn expire_trash(&self) -> Result<u64, VaultError> {
        let trash = self.ids(ObjectKind::Trash)?;
        // After the trash objects: who leases looks for them when his lease is there.
        let leased = self.leased_archives()?;
        let mut expired = 0;
        for id in trash.difference(&leased) {
            self.delete(ObjectKind::Recipe, *id)?;
            self.delete(ObjectKind::Commit, *id)?;
            self.delete(ObjectKind::Trash, *id)?;
            expired += 1;
        }
        Ok(expired)
    }

    /// Withdraws recipes without a commit: the withdrawal is there before the commit is looked for.
    fn withdraw_unfinished(&self) -> Result<u64, VaultError> {
        let commits = self.ids(ObjectKind::Commit)?;
        let mut withdrawn = 0;
        for id in self.ids(ObjectKind::Recipe)?.difference(&commits) {
            withdrawn += u64::from(self.withdraw(*id)?);
        }
        Ok(withdrawn)
    }

    /// Withdraws a recipe that has no commit; whether it has none.
    pub(super) fn withdraw(&self, id: ObjectId) -> Result<bool, VaultError> {
        self.put(ObjectKind::Withdrawal, id, &[])?;
        if self.exists(ObjectKind::Commit, id)? {
            return Ok(false);
        }
        self.delete(ObjectKind::Recipe, id)?;
        Ok(true)
    }
}

/// Copies chunks that no good pack has to new packs.
///
/// A delta stays one where its base is in a good pack, or is copied anyway, or others have it too.
fn copy(
    chunks: &Chunks,
    missing: &BTreeSet<ChunkId>,
    collected: &mut Collected,
) -> Result<(), VaultError> {
    let forms = forms(chunks, missing);
    let mut uses: BTreeMap<ChunkId, u32> = BTreeMap::new();
    for base in forms.values().filter_map(Representation::base) {
        *uses.entry(base).or_default() += 1;
    }
    let zero = chunks.domain().secrets().zero();
    let has_full = |base: ChunkId| {
        let ways: Vec<Way> = chunks.index().ways(base, Which::Good).collect();
        base == zero || ways.iter().any(|way| matches!(way, Way::Full(_)))
    };
    let mut store = ChunkStore::new(chunks);
    let mut encoder = ChunkEncoder::new(ArchiveOptions::CODEC)?;
    let (mut decoder, mut chunk) = (chunks.decoder(), zero_chunk());
    // Bases that several have need of, or that are missing themselves, are full from now on.
    let mut full: BTreeSet<ChunkId> = BTreeSet::new();
    for (base, count) in uses {
        if has_full(base) {
            full.insert(base);
        } else if count > 1 || missing.contains(&base) {
            chunks.fetch_one(base, &mut decoder, &mut chunk)?;
            store.push_anyway(&encoder.encode(base, &chunk, Representation::Full))?;
            full.insert(base);
        }
    }
    for id in missing {
        let form = forms.get(id).copied().filter(|form| {
            let base = form.base();
            base.is_some_and(|base| full.contains(&base))
        });
        chunks.fetch_one(*id, &mut decoder, &mut chunk)?;
        let form = form.unwrap_or(Representation::Full);
        store.push(&encoder.encode(*id, &chunk, form))?;
    }
    store.flush()?;
    collected.copied_chunks += store.stats().records;
    collected.copied_bytes += store.stats().stored_bytes;
    Ok(())
}

/// How chunks are stored that are not in good packs.
fn forms(chunks: &Chunks, missing: &BTreeSet<ChunkId>) -> BTreeMap<ChunkId, Representation> {
    let index = chunks.index();
    let form = |id: &ChunkId| {
        let way = index.ways(*id, Which::Any).next()?;
        let [own, _] = way.records();
        Some((*id, own?.entry.representation))
    };
    missing.iter().filter_map(form).collect()
}

/// How often a collection marks again: as long as others condemn what it copies to.
const ATTEMPTS: usize = 32;
