//! Going through a snapshot and all that it needs, and mending what copies allow.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use snapshot_format::{Digest, FileEntry, FileKind, Manifest, Operation, Placement, SnapshotId};
use snapshot_memory::{DamagedUnit, DataFile, DataFileNames, MendedData, StagedPlacement};

use crate::directory::{self, Location};
use crate::error::StoreError;
use crate::file;
use crate::lease::Lease;
use crate::metadata::Metadata;
use crate::placed::{self, Placed};
use crate::placing::{self, PlaceLock};
use crate::record;
use crate::repair::damage::{self, DamagedData, Found};
use crate::repair::finder::{Finder, RepairSource};
use crate::repair::report::{RepairOutcome, RepairReport, RepairedFile};
use crate::repair::{lost, quarantine, rebuilt};
use crate::store::Store;
use crate::vm;

/// Told the bytes of each step; breaking ends the work.
type Tell<'t> = dyn FnMut(u64) -> ControlFlow<()> + 't;

/// A repair under way.
struct Work<'w, 's> {
    store: &'w Store,
    dry_run: bool,
    source: Option<&'w mut (dyn RepairSource + 's)>,
    tell: &'w mut Tell<'w>,
    report: RepairReport,
}

/// A snapshot that is being looked at. Nobody else makes a placement of it.
struct Target {
    id: SnapshotId,
    location: Location,
    manifest: Manifest,
    digest: Digest,
    _lock: Option<PlaceLock>,
    _lease: Lease,
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
        let lock = if self.dry_run {
            None
        } else {
            let lock = PlaceLock::take(self.store, id)?;
            lock.remove_leftovers()?;
            Some(lock)
        };
        let lease = Lease::take(self.store, id)?;
        let (manifest, digest) = match record::read_manifest(self.store.backend(), location, id) {
            Ok(read) => read,
            Err(error) => {
                let path = location.snapshot(id);
                let path = directory::below(&path, &FileKind::Manifest.file_name(0));
                self.found(id, path.as_str(), error.to_string());
                return Ok(());
            }
        };
        let target = Target {
            id,
            location,
            manifest,
            digest,
            _lock: lock,
            _lease: lease,
        };
        self.metadata(&target)?;
        self.placements(&target)?;
        let Ok(placed) = Placed::read(self.store.backend(), location, id) else {
            return Ok(());
        };
        placed.allow(Operation::Rewrite)?;
        if let Some((path, problem)) = damage::state_problem(self.store, &placed) {
            self.found(id, path.as_str(), problem);
        }
        let files = placed.placement.files.iter();
        for entry in files.filter(|entry| entry.kind == FileKind::MemoryData) {
            self.data(&target, &placed, entry)?;
        }
        Ok(())
    }

    /// Keeps a file in which something is wrong that nothing was done about yet.
    fn found(&mut self, id: SnapshotId, path: &str, problem: String) -> &mut RepairedFile {
        self.report.files.push(RepairedFile::new(id, path, problem));
        let last = self.report.files.len() - 1;
        &mut self.report.files[last]
    }

    /// A `snapshot.json` that cannot be read: an empty one takes its place, which protects.
    fn metadata(&mut self, target: &Target) -> Result<(), StoreError> {
        let (store, id) = (self.store, target.id);
        let read = record::read_metadata(store.backend(), target.location, id);
        let problem = match read {
            Ok(_) => return Ok(()),
            // Whoever wrote it knows more than this build.
            Err(error @ StoreError::TooNew { .. }) => return Err(error),
            Err(error) => error.to_string(),
        };
        let folder = target.location.snapshot(id);
        let path = directory::below(&folder, directory::METADATA_FILE);
        let mut quarantined = None;
        if !self.dry_run {
            let bytes = Metadata::unreadable().encode(id)?;
            let _vm = store.lock_vm(&target.manifest.vm)?;
            let _commit = store.lock_exclusively(&directory::commit_lock())?;
            still_there(store, target)?;
            // Somebody may have written it anew.
            if record::read_metadata(store.backend(), target.location, id).is_ok() {
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
        let (store, id) = (self.store, target.id);
        let backend = store.backend();
        let mut bad: Vec<(u32, StoreError)> = Vec::new();
        let there = placed::generations(backend, target.location, id)?;
        for generation in &there {
            let (manifest, digest) = (&target.manifest, target.digest);
            let read =
                placed::read_generation(backend, target.location, manifest, digest, *generation);
            bad.extend(read.err().map(|error| (*generation, error)));
        }
        let whole = Placed::read(backend, target.location, id);
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
        let folder = target.location.snapshot(id);
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
                still_there(store, target)?;
                for (generation, _) in &bad {
                    let name = FileKind::Placement.file_name(*generation);
                    let path = directory::below(&folder, &name);
                    taken_away.push(quarantine::take_away(backend, id, &path)?);
                }
                RepairOutcome::Mended
            }
        };
        if bad.is_empty() {
            let missing = (
                1,
                StoreError::MissingFile {
                    path: folder.clone(),
                },
            );
            bad.push(missing);
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
        let (location, manifest) = (target.location, &target.manifest);
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
        let staged = StagedPlacement::begin(store.shared_backend(), folder, target.id)?;
        let sealed = staged.seal(after)?;
        let _commit = store.lock_exclusively(&directory::commit_lock())?;
        still_there(store, target)?;
        let now = Placed::read(store.backend(), target.location, target.id);
        if now.ok().map(|placed| placed.placement).as_ref() != before {
            return Err(overtaken(target.id));
        }
        sealed.publish(&target.location.snapshot(target.id), &[])?;
        Ok(())
    }

    /// A data file: written again as it was, with the bytes of damaged units from elsewhere.
    fn data(
        &mut self,
        target: &Target,
        placed: &Placed,
        entry: &FileEntry,
    ) -> Result<(), StoreError> {
        let damaged = match damage::look(self.store, placed, entry, self.tell)? {
            Found::Sound => return Ok(()),
            Found::Map { path, error } => {
                self.found(target.id, path.as_str(), error.to_string());
                return Ok(());
            }
            Found::Data(damaged) => damaged,
        };
        let source = self.source.as_deref_mut();
        let mut finder = Finder::new(self.store, &damaged.file, &damaged.units, source)?;
        let count = damaged.units.len() as u64;
        let mut quarantined = None;
        let lost = if self.dry_run {
            let units = damaged.units.iter();
            let lost = units.filter(|unit| finder.find(unit).is_none());
            lost.cloned().collect()
        } else {
            let (lost, copy) = mend(self.store, target, placed, &damaged, &mut finder, self.tell)?;
            quarantined = copy;
            lost
        };
        let from = finder.from.iter().cloned().collect();
        drop(finder);
        let mended = count - (lost.len() as u64).min(count);
        let file = self.found(target.id, damaged.path.as_str(), damaged.problem.clone());
        file.damaged_units = count;
        file.mended_units = mended;
        file.outcome = RepairOutcome::of(count, mended);
        file.from = from;
        file.quarantined = quarantined;
        let layout = &damaged.file.root().layout;
        let hurt = lost::hurt(self.store, damaged.file.reference(), layout, &lost)?;
        self.report.hurt.extend(hurt);
        Ok(())
    }
}

/// Writes a data file again and puts it in its place; what is lost of it, and where the old one is.
fn mend(
    store: &Store,
    target: &Target,
    placed: &Placed,
    damaged: &DamagedData,
    finder: &mut Finder<'_, '_>,
    tell: &mut Tell<'_>,
) -> Result<(Vec<DamagedUnit>, Option<String>), StoreError> {
    let folder = Location::Live.directory();
    let mut staged = StagedPlacement::begin(store.shared_backend(), folder, target.id)?;
    // The new file, and a copy of the old one.
    let bytes = damaged.file.stored_bytes().map_err(StoreError::image)?;
    staged.require_room(bytes.saturating_mul(2))?;
    let mut out = staged.create(damaged.entry.kind, damaged.entry.index)?;
    let path = out.path().clone();
    let written = damaged
        .file
        .mend(&mut out, &mut |unit| finder.find(unit), tell)?;
    let MendedData { mended, lost, .. } = written.ok_or(StoreError::Interrupted)?;
    if mended == 0 && !lost.is_empty() {
        return Ok((lost, None));
    }
    staged.add(out, damaged.entry);
    let sealed = staged.seal_replacement()?;
    check_written(store, damaged, &path, lost.len())?;
    let copy = quarantine::copy(store.backend(), target.id, &damaged.path)?;
    let _commit = store.lock_exclusively(&directory::commit_lock())?;
    still_there(store, target)?;
    if Placed::read(store.backend(), target.location, target.id)?.placement != placed.placement {
        return Err(overtaken(target.id));
    }
    sealed.replace(&target.location.snapshot(target.id))?;
    Ok((lost, copy.map(|path| path.as_str().to_owned())))
}

/// Reads what was written back: nothing is wrong with it but what is lost.
fn check_written(
    store: &Store,
    damaged: &DamagedData,
    path: &snapshot_memory::backend::RelPath,
    lost: usize,
) -> Result<(), StoreError> {
    let reference = damaged.file.reference();
    let (map_path, map) = placed::open_file(
        store.backend(),
        reference.snapshot,
        FileKind::MemoryMap,
        reference.index,
    )?;
    let data = store.backend().open(path);
    let data = data.map_err(|error| StoreError::io("open", path, error))?;
    let names = DataFileNames {
        map: map_path.as_str().to_owned(),
        data: path.as_str().to_owned(),
    };
    let file = DataFile::open(map, data, names, &reference).map_err(StoreError::image)?;
    let mut wrong = Vec::new();
    file.check(&mut |error| wrong.push(error), &mut |_| {
        ControlFlow::Continue(())
    });
    if wrong.len() > lost
        && let Some(error) = wrong.into_iter().next()
    {
        return Err(StoreError::image(error));
    }
    Ok(())
}

/// Fails if the snapshot moved to the trash, or back, since it was looked at. The commit lock is held.
fn still_there(store: &Store, target: &Target) -> Result<(), StoreError> {
    if store.whereabouts(target.id)? == Some(target.location) {
        Ok(())
    } else {
        Err(overtaken(target.id))
    }
}

fn overtaken(id: SnapshotId) -> StoreError {
    StoreError::Overtaken {
        what: format!("snapshot {id}"),
    }
}
