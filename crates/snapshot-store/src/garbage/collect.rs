//! Removing deleted snapshots that nobody needs: marked, marked again, gone, unlinked.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use snapshot_format::SnapshotId;
use snapshot_memory::backend::LockMode;

use super::marks::Marks;
use super::report::{Collected, GarbageOptions, GarbageReport, KeptInTrash, KeptReason};
use super::reserve;
use super::{grace, trim};
use crate::directory::{self, Location};
use crate::error::StoreError;
use crate::file;
use crate::lock::{self, Held};
use crate::record;
use crate::recovery;
use crate::store::Store;
use crate::vm;

/// A collection under way. `locks/gc` is held.
pub(super) struct Collection<'a> {
    store: &'a Store,
    options: &'a GarbageOptions,
    marks: Marks,
    report: GarbageReport,
    /// Deleted snapshots that are not tried again, with the reason.
    passed_over: BTreeMap<SnapshotId, KeptReason>,
}

/// A snapshot that is below a tombstone, locked against every use.
struct Gone {
    collected: Collected,
    _lock: Held,
}

impl<'a> Collection<'a> {
    pub(super) fn new(store: &'a Store, options: &'a GarbageOptions) -> Self {
        Self {
            store,
            options,
            marks: Marks::default(),
            report: GarbageReport::default(),
            passed_over: BTreeMap::new(),
        }
    }

    pub(super) fn run(mut self) -> Result<GarbageReport, StoreError> {
        self.finish_tombstones()?;
        self.marks.refresh(self.store)?;
        self.trim_all();
        self.note_all()?;
        while self.round()? {}
        self.tell_kept();
        reserve::make(self.store);
        Ok(self.report)
    }

    /// Removes what collections before this one made unreachable.
    fn finish_tombstones(&mut self) -> Result<(), StoreError> {
        let folder = Location::Trash.directory();
        let entries = self.store.backend().list(&folder);
        let entries = entries.map_err(|error| StoreError::io("list", &folder, error))?;
        let gone: Vec<SnapshotId> = entries
            .iter()
            .filter_map(|entry| directory::gone_id(&entry.name))
            .collect();
        if !gone.is_empty() {
            // Whoever renamed them may have died before that was durable.
            self.sync_trash()?;
        }
        for id in gone {
            if let Err(error) = self.unlink(id) {
                self.report.problem(id, error.to_string());
            }
        }
        // A note of what is not in the trash any more says nothing.
        for id in entries
            .iter()
            .filter_map(|entry| directory::noted_id(&entry.name))
        {
            if !self.store.exists_at(Location::Trash, id)?
                && let Err(error) = grace::forget(self.store, id)
            {
                self.report.problem(id, error.to_string());
            }
        }
        Ok(())
    }

    fn trim_all(&mut self) {
        let all: Vec<(SnapshotId, Location)> = self
            .marks
            .all()
            .map(|(id, location, _)| (id, location))
            .collect();
        for (id, location) in all {
            let (store, marks) = (self.store, &mut self.marks);
            let used = &mut self.report.reserve_was_used;
            let trimmed =
                reserve::with_reserve(store, used, &mut || trim::trim(store, location, id, marks));
            match trimmed {
                Ok(None) => {}
                Ok(Some(trimmed)) => {
                    self.report.freed_bytes += trimmed.allocated_bytes;
                    self.report.trimmed.push(trimmed);
                }
                Err(error) => self.report.problem(id, error.to_string()),
            }
        }
    }

    /// Has the grace of every deleted snapshot begin.
    fn note_all(&mut self) -> Result<(), StoreError> {
        if self.options.grace_ms == 0 {
            return Ok(());
        }
        self.marks.refresh(self.store)?;
        for id in self.marks.deleted() {
            grace::note(self.store, id, self.options);
        }
        Ok(())
    }

    /// Collects what is free now. Whether anything was: what it named may be free then.
    fn round(&mut self) -> Result<bool, StoreError> {
        self.marks.refresh(self.store)?;
        let deleted: Vec<SnapshotId> = self.marks.deleted().collect();
        let mut victims = Vec::new();
        for id in deleted {
            if self.passed_over.contains_key(&id) || !self.marks.is_free(id) {
                continue;
            }
            match grace::pending(self.store, id, self.options) {
                Some(noted_unix_ms) => {
                    let reason = KeptReason::Grace { noted_unix_ms };
                    self.passed_over.insert(id, reason);
                }
                None => victims.push(id),
            }
        }
        let mut collected = false;
        for batch in victims.chunks(BATCH) {
            let batch = self.remember(batch);
            for one in self.make_tombstones(&batch)? {
                collected = true;
                self.finish(one);
            }
        }
        Ok(collected)
    }

    /// Sees to it that no number of a victim is given again; those of which it cannot are left out.
    fn remember(&mut self, victims: &[SnapshotId]) -> Vec<SnapshotId> {
        let mut refused: BTreeSet<SnapshotId> = BTreeSet::new();
        for &id in victims {
            let manifest = record::read_manifest(self.store.backend(), Location::Trash, id);
            // One that cannot be read is remembered by nobody as it is.
            let Ok((manifest, _)) = manifest else {
                continue;
            };
            let (store, used) = (self.store, &mut self.report.reserve_was_used);
            let remembered = reserve::with_reserve(store, used, &mut || {
                vm::remember_seq(store, &manifest.vm, manifest.seq)
            });
            if let Err(error) = remembered {
                self.fail(id, &error);
                refused.insert(id);
            }
        }
        let left = victims.iter().filter(|id| !refused.contains(id));
        left.copied().collect()
    }

    /// Takes the names of victims away, durably, of those that are free still.
    fn make_tombstones(&mut self, victims: &[SnapshotId]) -> Result<Vec<Gone>, StoreError> {
        let _commit = self.store.lock_exclusively(&directory::commit_lock())?;
        self.marks.refresh(self.store)?;
        let mut gone = Vec::new();
        for &id in victims {
            if !self.marks.is_free(id) {
                continue;
            }
            match self.make_tombstone(id) {
                Ok(one) => gone.push(one),
                Err(StoreError::Busy { holders, .. }) => {
                    self.passed_over.insert(id, KeptReason::InUse { holders });
                }
                Err(error) => self.fail(id, &error),
            }
        }
        if !gone.is_empty() {
            self.sync_trash()?;
        }
        Ok(gone)
    }

    fn make_tombstone(&mut self, id: SnapshotId) -> Result<Gone, StoreError> {
        let backend = self.store.backend();
        let lock_path = directory::snapshot_lock(id);
        let lock = lock::take(backend, &lock_path, LockMode::Exclusive, Duration::ZERO)?;
        self.store.allow_gc(Location::Trash, id)?;
        let (source, target) = (Location::Trash.snapshot(id), directory::gone(id));
        let collected = weigh(self.store, id)?;
        let used = &mut self.report.reserve_was_used;
        reserve::with_reserve(self.store, used, &mut || {
            let renamed = backend.rename_noreplace(&source, &target);
            renamed.map_err(|error| StoreError::io("move", &source, error))
        })?;
        Ok(Gone {
            collected,
            _lock: lock,
        })
    }

    /// Removes the files of one whose name is gone.
    fn finish(&mut self, gone: Gone) {
        let id = gone.collected.id;
        if let Err(error) = self.unlink(id) {
            // The tombstone stays, and the next collection goes on.
            self.report.problem(id, error.to_string());
        }
        self.report.freed_bytes += gone.collected.allocated_bytes;
        self.report.collected.push(gone.collected);
    }

    /// Removes what is below a tombstone, and what else is left of the snapshot.
    fn unlink(&mut self, id: SnapshotId) -> Result<(), StoreError> {
        let (store, used) = (self.store, &mut self.report.reserve_was_used);
        reserve::with_reserve(store, used, &mut || {
            recovery::remove_tree(store.backend(), &directory::gone(id), recovery::MAX_DEPTH)
        })?;
        grace::forget(store, id)?;
        file::remove_if_there(store.backend(), &directory::snapshot_lock(id))
    }

    fn sync_trash(&self) -> Result<(), StoreError> {
        let folder = Location::Trash.directory();
        let synced = file::sync_dir(self.store.backend(), &folder);
        synced.map_err(|source| StoreError::DurabilityUncertain {
            what: "the removal of deleted snapshots".to_owned(),
            source,
        })
    }

    fn fail(&mut self, id: SnapshotId, error: &StoreError) {
        self.report.problem(id, error.to_string());
        self.passed_over.insert(id, KeptReason::Failed);
    }

    fn tell_kept(&mut self) {
        let kept = kept(&self.marks, &mut |id| self.passed_over.get(&id).cloned());
        self.report.kept = kept;
        for (id, problem) in self.marks.unreadable() {
            self.report.problem(id, problem);
        }
    }
}

/// The deleted snapshots that stay, and why; `other` says what is no matter of the mark.
pub(super) fn kept(
    marks: &Marks,
    other: &mut dyn FnMut(SnapshotId) -> Option<KeptReason>,
) -> Vec<KeptInTrash> {
    let mut kept = Vec::new();
    for id in marks.deleted() {
        let naming = marks.naming(id);
        let reason = if !naming.is_empty() {
            Some(KeptReason::Needed {
                by: naming.into_iter().collect(),
            })
        } else if let Some((unreadable, _)) = marks.unreadable_beside(id) {
            Some(KeptReason::Unknown { unreadable })
        } else {
            other(id)
        };
        kept.extend(reason.map(|reason| KeptInTrash { id, reason }));
    }
    kept
}

/// The machine of a deleted snapshot, and the blocks that it occupies.
pub(super) fn weigh(store: &Store, id: SnapshotId) -> Result<Collected, StoreError> {
    let manifest = record::read_manifest(store.backend(), Location::Trash, id);
    Ok(Collected {
        id,
        vm: manifest.ok().map(|(manifest, _)| manifest.vm),
        allocated_bytes: store.allocated_bytes(Location::Trash, id)?,
    })
}

/// Snapshots whose names go under one commit lock.
const BATCH: usize = 256;
