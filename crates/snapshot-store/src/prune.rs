//! Applying a retention policy to the snapshots of one virtual machine.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use snapshot_format::{SnapshotId, VmName};

use crate::directory::{self, Location};
use crate::error::StoreError;
use crate::placed::{self, Placed};
use crate::record::{DamagedSnapshot, SnapshotRecord};
use crate::retention::{self, Candidate, Extent, Hold, RetentionPlan, RetentionPolicy};
use crate::store::Store;
use crate::vm;

/// What a policy would make of the snapshots of a machine.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct PrunePlan {
    /// Which machine.
    pub vm: VmName,
    /// One decision for each snapshot, and what they come to.
    #[serde(flatten)]
    pub plan: RetentionPlan,
    /// Snapshots that nobody can tell whose they are. They are left alone.
    pub damaged: Vec<DamagedSnapshot>,
}

/// What applying a policy did.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct PruneReport {
    /// The snapshots that were moved to the trash, in this order.
    pub removed: Vec<SnapshotId>,
    /// Snapshots that were to be removed and stay.
    pub refused: Vec<RefusedRemoval>,
}

/// A snapshot that was to be removed and stays.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct RefusedRemoval {
    /// Which.
    pub id: SnapshotId,
    /// What holds it.
    pub hold: Hold,
}

/// The files of a store, and who needs and leases what.
struct Survey {
    extents: Vec<Extent>,
    /// Who leases each snapshot, or one that needs its data.
    leased: BTreeMap<SnapshotId, Hold>,
    /// The parent of each deleted snapshot.
    deleted_parents: BTreeMap<SnapshotId, Option<SnapshotId>>,
    /// Where branches without a snapshot begin.
    starts: BTreeSet<SnapshotId>,
}

impl Store {
    /// What `policy` would make of the snapshots of `vm`. Nothing is changed.
    pub fn plan_prune(
        &self,
        vm: &VmName,
        policy: &RetentionPolicy,
        now_unix_ms: u64,
    ) -> Result<PrunePlan, StoreError> {
        policy.check()?;
        let listing = self.list(Some(vm))?;
        let survey = Survey::of(self)?;
        let current = self.current_or_newest(vm, &listing.snapshots)?;
        let own: BTreeSet<SnapshotId> = listing.snapshots.iter().map(|record| record.id).collect();
        let candidates = listing.snapshots.iter();
        let candidates: Vec<Candidate> = candidates
            .map(|record| {
                let mut candidate = survey.candidate(record, &own, current);
                // The newest of its branch is a head by that alone.
                if survey.starts.contains(&record.id) && later(&listing.snapshots, record) {
                    candidate.holds.push(Hold::Head);
                }
                candidate
            })
            .collect();
        let plan = retention::decide(policy, &candidates, &survey.extents, now_unix_ms)?;
        Ok(PrunePlan {
            vm: vm.clone(),
            plan,
            damaged: listing.damaged,
        })
    }

    /// Moves the snapshots to the trash that `plan` removes. What has come to be held, current or the
    /// head of its branch since then stays, and is in the report.
    pub fn prune(&self, plan: &PrunePlan) -> Result<PruneReport, StoreError> {
        let span = tracing::info_span!("prune", vm = %plan.vm);
        let _inside = span.enter();
        self.begin_write()?;
        let mut report = PruneReport::default();
        for decision in plan.plan.removals() {
            let id = decision.id;
            match self.remove_planned(&plan.vm, id) {
                Ok(None) => report.removed.push(id),
                Ok(Some(hold)) => report.refused.push(RefusedRemoval { id, hold }),
                // Somebody else deleted it.
                Err(StoreError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(report)
    }

    /// Deletes one, unless something holds it.
    fn remove_planned(&self, vm: &VmName, id: SnapshotId) -> Result<Option<Hold>, StoreError> {
        match self.delete_unless(id, Some(vm), &|| self.newest_hold(vm, id)) {
            Err(StoreError::Refused { reason, .. }) => Ok(Some(reason.into())),
            result => result,
        }
    }

    /// Whether `id` is what its machine is on, or a head. The lock of the machine and the commit lock
    /// are held: no branch begins there meanwhile.
    fn newest_hold(&self, vm: &VmName, id: SnapshotId) -> Result<Option<Hold>, StoreError> {
        let records = self.list(Some(vm))?.snapshots;
        let Some(own) = records.iter().find(|record| record.id == id) else {
            return Ok(None);
        };
        if self.current_or_newest(vm, &records)? == Some(id) {
            return Ok(Some(Hold::Current));
        }
        let is_head = !later(&records, own) || starts(self)?.contains(&id);
        Ok(is_head.then_some(Hold::Head))
    }

    /// The head of the branch that a machine is on; where nobody said so, the newest of `records`.
    fn current_or_newest(
        &self,
        vm: &VmName,
        records: &[SnapshotRecord],
    ) -> Result<Option<SnapshotId>, StoreError> {
        let head = self.current_head(vm)?.map(|(_, head)| head);
        Ok(head.or_else(|| records.last().map(|record| record.id)))
    }
}

/// Whether a snapshot of the branch of `own` has a higher number.
fn later(records: &[SnapshotRecord], own: &SnapshotRecord) -> bool {
    let mut of_branch = records.iter().filter(|record| record.branch == own.branch);
    of_branch.any(|record| record.seq > own.seq)
}

/// Where branches begin on which no snapshot in use was taken, of whatever machine.
fn starts(store: &Store) -> Result<BTreeSet<SnapshotId>, StoreError> {
    let folder = directory::vm_directory();
    let entries = store.backend().list(&folder);
    let entries = entries.map_err(|error| StoreError::io("list", &folder, error))?;
    let names = entries.iter().filter_map(|e| e.name.strip_suffix(".json"));
    let mut starts = BTreeSet::new();
    for vm in names.filter_map(|name| VmName::new(name).ok()) {
        let Some(file) = vm::read(store, &vm)? else {
            continue;
        };
        let bare = file.starts.iter();
        let bare = bare.filter(|(branch, _)| !file.heads.contains_key(branch));
        starts.extend(bare.map(|(_, start)| *start));
    }
    Ok(starts)
}

impl Survey {
    /// Reads every placement, and asks who holds leases.
    fn of(store: &Store) -> Result<Self, StoreError> {
        let mut survey = Self {
            extents: Vec::new(),
            leased: BTreeMap::new(),
            deleted_parents: BTreeMap::new(),
            starts: starts(store)?,
        };
        let mut needed: BTreeMap<(SnapshotId, u32), BTreeSet<SnapshotId>> = BTreeMap::new();
        for id in store.ids_at(Location::Live)? {
            // What cannot be read needs nothing that could be named: see `GC-02` for what it keeps.
            let Ok(placed) = Placed::read(store.backend(), Location::Live, id) else {
                continue;
            };
            for data in &placed.placement.dependencies {
                let users = needed.entry((data.snapshot, data.index)).or_default();
                users.insert(id);
            }
            survey.ask_for_leases(store, id, &placed)?;
        }
        for location in Location::SEARCH {
            for id in store.ids_at(location)? {
                survey.weigh(store, location, id, &needed)?;
            }
        }
        for record in store.list_at(Location::Trash, None)?.snapshots {
            let parent = record.parent.map(|parent| parent.id);
            survey.deleted_parents.insert(record.id, parent);
        }
        Ok(survey)
    }

    /// Notes who uses `id`, and with it all that any placement of it names.
    fn ask_for_leases(
        &mut self,
        store: &Store,
        id: SnapshotId,
        placed: &Placed,
    ) -> Result<(), StoreError> {
        let path = directory::snapshot_lock(id);
        let holders = store.backend().lock_holders(&path).unwrap_or_default();
        if holders.is_empty() {
            return Ok(());
        }
        let lease = Hold::Leased {
            holders: holders.clone(),
        };
        self.leased.insert(id, lease);
        let backend = store.backend();
        for generation in placed::generations(backend, Location::Live, id)? {
            let (manifest, digest) = (&placed.manifest, placed.digest);
            let read =
                placed::read_generation(backend, Location::Live, manifest, digest, generation);
            for data in read
                .into_iter()
                .flat_map(|placement| placement.dependencies)
            {
                let needed = || Hold::Needed {
                    by: id,
                    holders: holders.clone(),
                };
                self.leased.entry(data.snapshot).or_insert_with(needed);
            }
        }
        Ok(())
    }

    /// Adds up the files of one snapshot: each data file with its map, and all others.
    fn weigh(
        &mut self,
        store: &Store,
        location: Location,
        id: SnapshotId,
        needed: &BTreeMap<(SnapshotId, u32), BTreeSet<SnapshotId>>,
    ) -> Result<(), StoreError> {
        let mut data: BTreeMap<u32, u64> = BTreeMap::new();
        let mut others: u64 = 0;
        store.each_file(&location.snapshot(id), &mut |name, found| {
            let bytes = found.allocated_bytes;
            match placed::memory_index(name) {
                Some(index) => *data.entry(index).or_default() += bytes,
                None => others = others.saturating_add(bytes),
            }
        })?;
        let own = || (location == Location::Live).then_some(id).into_iter();
        self.extents.push(Extent {
            owner: id,
            bytes: others,
            needed_by: own().collect(),
        });
        for (index, bytes) in data {
            let users = needed.get(&(id, index)).into_iter().flatten().copied();
            self.extents.push(Extent {
                owner: id,
                bytes,
                needed_by: users.chain(own()).collect(),
            });
        }
        Ok(())
    }

    fn candidate(
        &self,
        record: &SnapshotRecord,
        own: &BTreeSet<SnapshotId>,
        current: Option<SnapshotId>,
    ) -> Candidate {
        let mut holds = Vec::new();
        if record.metadata_problem.is_some() {
            holds.push(Hold::Unreadable);
        } else if record.metadata.protected {
            holds.push(Hold::Protected);
        }
        holds.extend(self.leased.get(&record.id).cloned());
        if current == Some(record.id) {
            holds.push(Hold::Current);
        }
        Candidate {
            id: record.id,
            branch: record.branch.clone(),
            seq: record.seq,
            created_unix_ms: record.created_unix_ms,
            parent: self.nearest(record.parent.map(|parent| parent.id), own),
            tags: record.metadata.tags.clone(),
            labels: record.metadata.labels.clone(),
            holds,
        }
    }

    /// The first ancestor from `parent` on that is a candidate; deleted ones are passed over.
    fn nearest(
        &self,
        parent: Option<SnapshotId>,
        own: &BTreeSet<SnapshotId>,
    ) -> Option<SnapshotId> {
        let mut next = parent;
        // Links that go in a circle end, too.
        for _ in 0..=self.deleted_parents.len() {
            match next {
                Some(id) if own.contains(&id) => return next,
                Some(id) => next = self.deleted_parents.get(&id).copied().flatten(),
                None => return None,
            }
        }
        None
    }
}
