//! Data files written again as they were.

use std::ops::ControlFlow;
use std::sync::Arc;

use snapshot_format::{FileEntry, FileKind};
use snapshot_memory::{DamagedUnit, DataFile, DataFileNames, MendedData, StagedPlacement};

use crate::directory::{self, Location};
use crate::error::{ErrorKind, StoreError};
use crate::parity::{OpenParity, Recovered};
use crate::placed::{self, Placed};
use crate::repair::damage::{self, DamagedData, Found};
use crate::repair::finder::Finder;
use crate::repair::place::Target;
use crate::repair::report::RepairOutcome;
use crate::repair::run::{Tell, Work};
use crate::repair::{lost, quarantine};
use crate::store::Store;

impl Work<'_, '_> {
    /// A data file: written again as it was, with the bytes of damaged units from elsewhere.
    pub(super) fn data(
        &mut self,
        target: &Target,
        placed: &Placed,
        entry: &FileEntry,
    ) -> Result<(), StoreError> {
        let damaged = match damage::look(self.store, placed, entry, self.tell)? {
            Found::Sound => return Ok(()),
            Found::Map { path, error } if error.kind() == ErrorKind::TooNew => {
                self.found(target.place.id, path.as_str(), error.to_string());
                return Ok(());
            }
            Found::Map { error, .. } => {
                let there = self.map(target, placed, entry, error.to_string())?;
                // What its data is can be told now.
                return if there && !self.dry_run {
                    self.data(target, placed, entry)
                } else {
                    Ok(())
                };
            }
            Found::Data(damaged) => damaged,
        };
        let parity = self.parity(&target.place);
        let parity = parity.and_then(|parity| covered(self.store, &parity, &damaged));
        let source = self.source.as_deref_mut();
        let mut finder = Finder::new(self.store, &damaged.file, &damaged.units, source)?;
        finder.twins.extend(parity);
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
        let file = self.found(
            target.place.id,
            damaged.path.as_str(),
            damaged.problem.clone(),
        );
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
    let mut staged = StagedPlacement::begin(store.shared_backend(), folder, target.place.id)?;
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
    store.give_placing(target.place.id)?;
    check_written(store, damaged, &path, lost.len())?;
    let copy = quarantine::copy(store.backend(), target.place.id, &damaged.path)?;
    let _commit = store.lock_exclusively(&directory::commit_lock())?;
    target.place.still_there(store)?;
    if Placed::read(store.backend(), target.place.location, target.place.id)?.placement
        != placed.placement
    {
        return Err(target.place.overtaken());
    }
    sealed.replace(&target.place.location.snapshot(target.place.id))?;
    Ok((lost, copy.map(|path| path.as_str().to_owned())))
}

/// A data file as its parity gives it back.
fn covered(store: &Store, parity: &Arc<OpenParity>, damaged: &DamagedData) -> Option<DataFile> {
    let reference = damaged.file.reference();
    let rest = store.backend().open(&damaged.path).ok();
    let data = Recovered::of(parity, FileKind::MemoryData, reference.index, rest)?;
    let map = placed::open_file(
        store.backend(),
        reference.snapshot,
        FileKind::MemoryMap,
        reference.index,
    );
    let (map_path, map) = map.ok()?;
    let names = DataFileNames {
        map: map_path.as_str().to_owned(),
        data: parity.path.as_str().to_owned(),
    };
    DataFile::open_damaged(map, Some(Box::new(data)), names, &reference).ok()
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
