//! Files that come back whole or not at all: manifests, machine states and memory maps.

use std::collections::BTreeSet;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use snapshot_format::{
    DataFileRef, Digest, FileEntry, FileKind, Manifest, Placement, SnapshotId, limits,
};
use snapshot_memory::backend::{ReadFile, RelPath};
use snapshot_memory::{DataFile, DataFileNames, StagedPlacement};

use crate::directory::{self, Location};
use crate::error::{ErrorKind, StoreError};
use crate::parity::{OpenParity, Recovered};
use crate::placed::{self, Placed};
use crate::record;
use crate::repair::place::{Place, Target};
use crate::repair::quarantine;
use crate::repair::report::RepairOutcome;
use crate::repair::run::Work;
use crate::repair::source::WantedFile;
use crate::store::Store;
use crate::{file, vm};

/// What is known of a file that is damaged or missing.
struct Damaged<'d> {
    wanted: WantedFile,
    path: RelPath,
    problem: String,
    /// Whether these bytes are what was written.
    is_right: &'d dyn Fn(&[u8]) -> bool,
}

impl Work<'_, '_> {
    /// The manifest, made again where that can be; `None` where it cannot, or where this is a plan.
    pub(super) fn manifest(
        &mut self,
        place: &Place,
    ) -> Result<Option<(Manifest, Digest)>, StoreError> {
        let (store, id) = (self.store, place.id);
        let error = match record::read_manifest(store.backend(), place.location, id) {
            Ok(read) => return Ok(Some(read)),
            Err(error) => error,
        };
        let path = path_of(place, FileKind::Manifest, 0);
        if error.kind() == ErrorKind::TooNew {
            self.found(id, path.as_str(), error.to_string());
            return Ok(None);
        }
        let named = named_manifests(store, place)?;
        let is_right = |bytes: &[u8]| {
            let parsed = Manifest::parse(bytes);
            // Where nothing is left that names it, one of this snapshot whose own checksums fit.
            let is_named = named.is_empty() || named.contains(&Digest::of(bytes));
            parsed.is_ok_and(|manifest| manifest.id == id) && is_named
        };
        let damaged = Damaged {
            wanted: wanted(id, FileKind::Manifest, 0),
            path,
            problem: error.to_string(),
            is_right: &is_right,
        };
        if !self.whole(place, &damaged)? || self.dry_run {
            return Ok(None);
        }
        let (manifest, digest) = record::read_manifest(store.backend(), place.location, id)?;
        let _vm = store.lock_vm(&manifest.vm)?;
        vm::refresh(store, &manifest.vm);
        Ok(Some((manifest, digest)))
    }

    /// The machine state, which has the digest that the manifest names.
    pub(super) fn state(&mut self, target: &Target, placed: &Placed) -> Result<(), StoreError> {
        let Some(entry) = placed.placement.file(FileKind::State, 0) else {
            return Ok(());
        };
        let path = path_of(&target.place, FileKind::State, 0);
        let read = file::read(self.store.backend(), &path, limits::MAX_ENVELOPE_BYTES);
        let problem = match read {
            Err(error) => error.to_string(),
            Ok(bytes) => match entry.digest.check(&bytes) {
                Ok(()) => return Ok(()),
                Err(found) => {
                    let expected = entry.digest;
                    format!("{path} has the digest {found}, and {expected} is expected")
                }
            },
        };
        let damaged = Damaged {
            wanted: wanted(target.place.id, FileKind::State, 0),
            path,
            problem,
            is_right: &|bytes| entry.digest.check(bytes).is_ok(),
        };
        self.whole(&target.place, &damaged).map(drop)
    }

    /// A memory map; whether it is there again.
    pub(super) fn map(
        &mut self,
        target: &Target,
        placed: &Placed,
        data: &FileEntry,
        problem: String,
    ) -> Result<bool, StoreError> {
        let (id, index) = (target.place.id, data.index);
        let wanted_root = DataFileRef {
            snapshot: id,
            index,
            map_root: data.digest,
        };
        let frame = placed.placement.file(FileKind::MemoryMap, index);
        let frame = frame.map(|entry| entry.digest);
        let path = path_of(&target.place, FileKind::MemoryMap, index);
        let damaged = Damaged {
            wanted: wanted(id, FileKind::MemoryMap, index),
            is_right: &|bytes| is_map(bytes, &wanted_root, frame),
            path,
            problem,
        };
        self.whole(&target.place, &damaged)
    }

    /// Looks for the bytes of a file and puts them in its place, or would; whether they were found.
    fn whole(&mut self, place: &Place, damaged: &Damaged<'_>) -> Result<bool, StoreError> {
        let problem = damaged.problem.clone();
        let Some((from, bytes)) = self.look_for(place, damaged) else {
            self.found(place.id, damaged.path.as_str(), problem);
            return Ok(false);
        };
        let mut quarantined = None;
        if !self.dry_run {
            quarantined = put(self.store, place, damaged, &bytes)?;
        }
        let file = self.found(place.id, damaged.path.as_str(), problem);
        file.outcome = RepairOutcome::Mended;
        file.from = vec![from];
        file.quarantined = quarantined.map(|path| path.as_str().to_owned());
        Ok(true)
    }

    /// Placements that cannot be read and that parity covers; whether there was one.
    pub(super) fn covered_placements(&mut self, target: &Target) -> Result<bool, StoreError> {
        let (store, place) = (self.store, &target.place);
        let Some(parity) = self.parity(place) else {
            return Ok(false);
        };
        let mut found = false;
        for generation in parity.generations() {
            let (backend, manifest) = (store.backend(), &target.manifest);
            let read = placed::read_generation(
                backend,
                place.location,
                manifest,
                target.digest,
                generation,
            );
            let error = match read {
                Err(error) if error.kind() == ErrorKind::Corrupt => error,
                _ => continue,
            };
            let is_missing = matches!(error, StoreError::MissingFile { .. });
            if is_missing && Placed::read(backend, place.location, place.id).is_ok() {
                // It was superseded, and collected.
                continue;
            }
            let is_right = |bytes: &[u8]| {
                let parsed = Placement::parse(bytes);
                parsed.is_ok_and(|placement| {
                    (placement.id, placement.generation, placement.manifest)
                        == (place.id, generation, target.digest)
                        && placement.own_data(manifest.map_root).is_ok()
                })
            };
            let damaged = Damaged {
                wanted: wanted(place.id, FileKind::Placement, generation),
                path: path_of(place, FileKind::Placement, generation),
                problem: error.to_string(),
                is_right: &is_right,
            };
            // Where it does not come back it may be made anew.
            if self.by_parity(place, &damaged).is_some() {
                found |= self.whole(place, &damaged)?;
            }
        }
        Ok(found)
    }

    /// The parity of a snapshot, if it has one that can be read.
    pub(super) fn parity(&self, place: &Place) -> Option<Arc<OpenParity>> {
        match OpenParity::open(self.store, place.location, place.id) {
            Ok(parity) => parity.map(Arc::new),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "there is no help from parity");
                None
            }
        }
    }

    fn by_parity(&self, place: &Place, damaged: &Damaged<'_>) -> Option<(String, Vec<u8>)> {
        let parity = self.parity(place)?;
        let WantedFile { kind, index, .. } = damaged.wanted;
        let rest = self.store.backend().open(&damaged.path).ok();
        let file = Recovered::of(&parity, kind, index, rest)?;
        let limit = match kind {
            FileKind::MemoryMap => MAX_MAP_BYTES,
            _ => limits::MAX_ENVELOPE_BYTES,
        };
        let len = file.len().ok().filter(|len| *len <= limit)?;
        let mut bytes = vec![0; usize::try_from(len).ok()?];
        file.read_exact_at(0, &mut bytes).ok()?;
        let name = parity.path.as_str().to_owned();
        (damaged.is_right)(&bytes).then_some((name, bytes))
    }

    fn look_for(&mut self, place: &Place, damaged: &Damaged<'_>) -> Option<(String, Vec<u8>)> {
        if let Some(found) = self.by_parity(place, damaged) {
            return Some(found);
        }
        if let Some(source) = self.source.as_deref_mut()
            && let Some(bytes) = source.file(&damaged.wanted)
            && (damaged.is_right)(&bytes)
        {
            return Some((source.name().to_owned(), bytes));
        }
        let bytes = flipped_back(self.store, damaged)?;
        Some((BUT_FOR_ONE_BIT.to_owned(), bytes))
    }
}

/// Every digest that a placement of the snapshot, or a child of it, names its manifest by.
fn named_manifests(store: &Store, place: &Place) -> Result<BTreeSet<Digest>, StoreError> {
    let (backend, id) = (store.backend(), place.id);
    let mut named = BTreeSet::new();
    for generation in placed::generations(backend, place.location, id)? {
        let path = path_of(place, FileKind::Placement, generation);
        let bytes = file::read(backend, &path, limits::MAX_ENVELOPE_BYTES);
        let placement = bytes.ok().and_then(|bytes| Placement::parse(&bytes).ok());
        let of_it = placement.filter(|placement| placement.id == id);
        named.extend(of_it.map(|placement| placement.manifest));
    }
    for location in Location::SEARCH {
        for other in store.ids_at(location)? {
            // What cannot be read is damage of its own.
            let Ok((manifest, _)) = record::read_manifest(backend, location, other) else {
                continue;
            };
            let parent = manifest.parent.filter(|parent| parent.id == id);
            named.extend(parent.map(|parent| parent.digest));
        }
    }
    Ok(named)
}

/// Puts a file with these bytes in the place of the damaged one, which is copied aside; where to.
fn put(
    store: &Store,
    place: &Place,
    damaged: &Damaged<'_>,
    bytes: &[u8],
) -> Result<Option<RelPath>, StoreError> {
    let WantedFile { kind, index, .. } = damaged.wanted;
    let folder = Location::Live.directory();
    let mut staged = StagedPlacement::begin(store.shared_backend(), folder, place.id)?;
    let len_bytes = bytes.len() as u64;
    // The new file, and a copy of the old one.
    staged.require_room(len_bytes.saturating_mul(2))?;
    let mut out = staged.create(kind, index)?;
    let path = out.path().clone();
    let written = out.write_all_at(0, bytes);
    written.map_err(snapshot_memory::SinkError::from)?;
    let digest = Digest::of(bytes);
    staged.add(
        out,
        FileEntry {
            kind,
            index,
            len_bytes,
            digest,
        },
    );
    let sealed = staged.seal_replacement()?;
    store.give_placing(place.id)?;
    let found = Digest::of(&file::read(store.backend(), &path, len_bytes)?);
    if found != digest {
        let problem = "what was written is not what is read back";
        return Err(StoreError::damaged(&path, problem));
    }
    let copy = quarantine::copy(store.backend(), place.id, &damaged.path)?;
    let _commit = store.lock_exclusively(&directory::commit_lock())?;
    place.still_there(store)?;
    sealed.replace(&place.location.snapshot(place.id))?;
    Ok(copy)
}

/// The bytes that are there, with the one bit of them changed that makes them right.
fn flipped_back(store: &Store, damaged: &Damaged<'_>) -> Option<Vec<u8>> {
    if matches!(
        damaged.wanted.kind,
        FileKind::MemoryMap | FileKind::Placement
    ) {
        return None;
    }
    let mut bytes = file::read(store.backend(), &damaged.path, MAX_FLIPPED_BYTES).ok()?;
    for at in 0..bytes.len() {
        for bit in 0..8 {
            *bytes.get_mut(at)? ^= 1 << bit;
            if (damaged.is_right)(&bytes) {
                return Some(bytes);
            }
            *bytes.get_mut(at)? ^= 1 << bit;
        }
    }
    None
}

/// Whether these bytes are the map that is named, every leaf of it sound.
fn is_map(bytes: &[u8], wanted: &DataFileRef, frame: Option<Digest>) -> bool {
    let (map, data) = ("map".to_owned(), "data".to_owned());
    let names = DataFileNames { map, data };
    let held = Box::new(Held(bytes.to_vec()));
    let Ok(file) = DataFile::open_damaged(held, None, names, wanted) else {
        return false;
    };
    let mut sound = frame.is_none_or(|frame| frame == file.frame_digest());
    let mut report = |error: snapshot_memory::ImageError| sound &= error.file() != Some("map");
    file.check(&mut report, &mut |_| ControlFlow::Continue(()));
    sound
}

fn wanted(snapshot: SnapshotId, kind: FileKind, index: u32) -> WantedFile {
    WantedFile {
        snapshot,
        kind,
        index,
    }
}

fn path_of(place: &Place, kind: FileKind, index: u32) -> RelPath {
    directory::below(&place.location.snapshot(place.id), &kind.file_name(index))
}

/// A file that is held in memory.
#[derive(Debug)]
struct Held(Vec<u8>);

impl ReadFile for Held {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(out.len());
        let bytes = self.0.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn next_data(&self, _offset: u64) -> io::Result<Option<(u64, u64)>> {
        Ok(None)
    }

    fn allocated_bytes(&self) -> io::Result<u64> {
        self.len()
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// What a report says of bytes of which one bit was changed back.
pub(super) const BUT_FOR_ONE_BIT: &str = "its own bytes but for one bit";

/// Bytes of a map that is taken whole: of a guest of terabytes.
const MAX_MAP_BYTES: u64 = 1 << 30;

/// Bytes of a file of which each bit is tried: about half a minute of hashing at most.
const MAX_FLIPPED_BYTES: u64 = 32 << 10;
