//! Going through a snapshot and all that it needs, and mending what copies allow.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use snapshot_format::{FileKind, Operation, Placement, SnapshotId};
use snapshot_memory::StagedPlacement;

use crate::directory::{self, Location};
use crate::error::StoreError;
use crate::file;
use crate::metadata::Metadata;
use crate::placed::{self, Placed};
use crate::placing;
use crate::record;
use crate::repair::place::{Place, Target};
use crate::repair::report::{RepairOutcome, RepairReport, RepairedFile};
use crate::repair::source::RepairSource;
use crate::repair::{quarantine, rebuilt};
use crate::store::Store;
use crate::vm;

/// Told the bytes of each step; breaking ends the work.
pub(super) type Tell<'t> = dyn FnMut(u64) -> ControlFlow<()> + 't;

/// A repair under way.
pub(super) struct Work<'w, 's> {
    pub(super) store: &'w Store,
    pub(super) dry_run: bool,
    pub(super) source: Option<&'w mut (dyn RepairSource + 's)>,
    pub(super) tell: &'w mut Tell<'w>,
    pub(super) report: RepairReport,
}

impl Store {
    /// What repairing a snapshot in use, and all that it needs, would do. Nothing is changed.
    ///
    /// `source` has copies that lie elsewhere. `tell` is given the bytes of each step, and ends the
    /// work by breaking.
    pub fn plan_repair(
        &self,
        id: SnapshotId,
        source: Option<&mut dyn RepairSource>,
        tell: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<RepairReport, StoreError> {
        self.work_on(id, true, source, tell)
    }

    /// Repairs a snapshot in use, and all that it needs, as far as copies of what is damaged can be
    /// found: each is compared with the digest of what was written.
    ///
    /// A damaged file is copied to `quarantine/` before another takes its place, by one rename.
    /// Readers of the old one go on. What nobody has stays as it is, and is in the report.
    pub fn repair(
        &self,
        id: SnapshotId,
        source: Option<&mut dyn RepairSource>,
        tell: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<RepairReport, StoreError> {
        self.begin_write()?;
        self.work_on(id, false, source, tell)
    }

    fn work_on(
        &self,
        id: SnapshotId,
        dry_run: bool,
        source: Option<&mut dyn RepairSource>,
        tell: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<RepairReport, StoreError> {
        let span = tracing::info_span!("repair", snapshot = %id, dry_run);
        let _inside = span.enter();
        self.allow(Operation::Rewrite)?;
        if !self.exists_at(Location::Live, id)? {
            return Err(StoreError::NotFound {
                what: format!("snapshot {id}"),
            });
        }
        let mut work = Work {
            store: self,
            dry_run,
            source,
            tell,
            report: RepairReport {
                id,
                dry_run,
                outcome: RepairOutcome::Sound,
                files: Vec::new(),
                hurt: Vec::new(),
            },
        };
        // Itself first: what it needs is known by its placement, which may have to be made again.
        work.snapshot(id)?;
        let placed = Placed::read(self.backend(), Location::Live, id);
        let needed = placed.map_or_else(|_| BTreeSet::new(), |placed| placed.closure());
        for other in needed.into_iter().filter(|other| *other != id) {
            work.snapshot(other)?;
        }
        let mut report = work.report;
        let outcomes = report.files.iter().map(|file| file.outcome);
        report.outcome = outcomes.fold(RepairOutcome::Sound, RepairOutcome::and);
        Ok(report)
    }
}

impl Work<'_, '_> {
    fn snapshot(&mut self, id: SnapshotId) -> Result<(), StoreError> {
        let Some(location) = self.store.whereabouts(id)? else {
            let path = Location::Live.snapshot(id);
            self.found(id, path.as_str(), format!("{path} is missing"));
            return Ok(());
        };
        let place = Place::take(self.store, id, location, self.dry_run)?;
        let Some((manifest, digest)) = self.manifest(&place)? else {
            return Ok(());
        };
        let target = Target {
            place,
            manifest,
            digest,
        };
        self.metadata(&target)?;
        if self.covered_placements(&target)? && self.dry_run {
            // What lies behind it is known once it is there.
            return Ok(());
        }
        self.placements(&target)?;
        let Ok(placed) = Placed::read(self.store.backend(), location, id) else {
            return Ok(());
        };
        placed.allow(Operation::Rewrite)?;
        self.state(&target, &placed)?;
        let files = placed.placement.files.iter();
        for entry in files.filter(|entry| entry.kind == FileKind::MemoryData) {
            self.data(&target, &placed, entry)?;
        }
        Ok(())
    }

    /// Keeps a file in which something is wrong that nothing was done about yet.
    pub(super) fn found(
        &mut self,
        id: SnapshotId,
        path: &str,
        problem: String,
    ) -> &mut RepairedFile {
        self.report.files.push(RepairedFile::new(id, path, problem));
        let last = self.report.files.len() - 1;
        &mut self.report.files[last]
    }

    /// A `snapshot.json` that cannot be read: an empty one takes its place, which protects.
    fn metadata(&mut self, target: &Target) -> Result<(), StoreError> {
        let (store, id) = (self.store, target.place.id);
        let read = record::read_metadata(store.backend(), target.place.location, id);
        let problem = match read {
            Ok(_) => return Ok(()),
            // Whoever wrote it knows more than this build.
            Err(error @ StoreError::TooNew { .. }) => return Err(error),
            Err(error) => error.to_string(),
        };
        let folder = target.place.location.snapshot(id);
        let path = directory::below(&folder, directory::METADATA_FILE);
        let mut quarantined = None;
        if !self.dry_run {
            let bytes = Metadata::unreadable().encode(id)?;
            let _vm = store.lock_vm(&target.manifest.vm)?;
            let _commit = store.lock_exclusively(&directory::commit_lock())?;
            target.place.still_there(store)?;
            // Somebody may have written it anew.
            if record::read_metadata(store.backend(), target.place.location, id).is_ok() {
                return Ok(());
            }
            quarantined = quarantine::copy(store.backend(), id, &path)?;
            let (name, access) = (directory::METADATA_FILE, store.own_file_access());
            file::replace(store.backend(), &folder, name, &bytes, access)?;
            vm::refresh(store, &target.manifest.vm);
        }
        let file = self.found(id, path.as_str(), problem);
        file.outcome = RepairOutcome::Partly;
        file.from = vec!["nothing: name, labels and tags are gone, and it is protected".to_owned()];
        file.quarantined = quarantined.map(|path| path.as_str().to_owned());
        Ok(())
    }

    /// Placements that cannot be read: one that names all that they may have named follows them.
    fn placements(&mut self, target: &Target) -> Result<(), StoreError> {
        let (store, id) = (self.store, target.place.id);
        let backend = store.backend();
        let mut bad: Vec<(u32, StoreError)> = Vec::new();
        let there = placed::generations(backend, target.place.location, id)?;
        for generation in &there {
            let (manifest, digest) = (&target.manifest, target.digest);
            let read = placed::read_generation(
                backend,
                target.place.location,
                manifest,
                digest,
                *generation,
            );
            bad.extend(read.err().map(|error| (*generation, error)));
        }
        let whole = Placed::read(backend, target.place.location, id);
        if let (true, Ok(_)) = (bad.is_empty(), &whole) {
            return Ok(());
        }
        let is_damage = |error: &StoreError| error.kind() == crate::ErrorKind::Corrupt;
        if let Some((_, error)) = bad
            .iter()
            .position(|(_, error)| !is_damage(error))
            .map(|at| bad.swap_remove(at))
        {
            return Err(error);
        }
        let made = self.successor(target, whole.ok().map(|placed| placed.placement), &there);
        let folder = target.place.location.snapshot(id);
        let mut taken_away = Vec::new();
        let outcome = match made {
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "a placement stays lost"
                );
                RepairOutcome::Lost
            }
            Ok(_) if self.dry_run => RepairOutcome::Mended,
            Ok((placement, before)) => {
                self.publish(target, placement, before.as_ref())?;
                let _commit = store.lock_exclusively(&directory::commit_lock())?;
                target.place.still_there(store)?;
                for (generation, _) in &bad {
                    let name = FileKind::Placement.file_name(*generation);
                    let path = directory::below(&folder, &name);
                    taken_away.push(quarantine::take_away(backend, id, &path)?);
                }
                RepairOutcome::Mended
            }
        };
        if bad.is_empty() {
            let path = folder.clone();
            bad.push((1, StoreError::MissingFile { path }));
        }
        let mut taken_away = taken_away.into_iter();
        for (generation, error) in bad {
            let name = FileKind::Placement.file_name(generation);
            let path = directory::below(&folder, &name);
            let file = self.found(id, path.as_str(), error.to_string());
            file.outcome = outcome;
            file.quarantined = taken_away.next().map(|path| path.as_str().to_owned());
        }
        Ok(())
    }

    /// The placement to follow all that are there, and the one that counts now.
    fn successor(
        &self,
        target: &Target,
        before: Option<Placement>,
        there: &[u32],
    ) -> Result<(Placement, Option<Placement>), StoreError> {
        let (location, manifest) = (target.place.location, &target.manifest);
        let base = match &before {
            Some(before) => before.clone(),
            None => rebuilt::from_manifest(self.store, location, manifest, target.digest)?,
        };
        let mut after = rebuilt::with_all_files(self.store, location, manifest, &base)?;
        let highest = there.iter().copied().max().unwrap_or(0);
        after.generation = placing::next(highest, "placements of a snapshot")?;
        Ok((after, before))
    }

    fn publish(
        &self,
        target: &Target,
        after: Placement,
        before: Option<&Placement>,
    ) -> Result<(), StoreError> {
        let (store, folder) = (self.store, Location::Live.directory());
        let staged = StagedPlacement::begin(store.shared_backend(), folder, target.place.id)?;
        let sealed = staged.seal(after)?;
        store.give_placing(target.place.id)?;
        let _commit = store.lock_exclusively(&directory::commit_lock())?;
        target.place.still_there(store)?;
        let now = Placed::read(store.backend(), target.place.location, target.place.id);
        if now.ok().map(|placed| placed.placement).as_ref() != before {
            return Err(target.place.overtaken());
        }
        sealed.publish(&target.place.location.snapshot(target.place.id), &[])?;
        Ok(())
    }
}
