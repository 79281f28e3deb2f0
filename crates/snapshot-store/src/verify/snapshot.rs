//! The checks of one snapshot.

use std::ops::ControlFlow;

use snapshot_format::{
    DataFileRef, Digest, FileEntry, FileKind, SnapshotId, SnapshotRef, StateFile, limits,
};
use snapshot_memory::{CompareError, DataFile, ImageError, MemoryImage, RawFile, WorkingSet};

use crate::directory::Location;
use crate::error::StoreError;
use crate::file;
use crate::parity::OpenParity;
use crate::placed::{self, Placed};
use crate::record;
use crate::store::Store;
use crate::verify::bound;
use crate::verify::report::Findings;

/// Checks the snapshot at `location`.
pub(super) fn check(
    store: &Store,
    location: Location,
    id: SnapshotId,
    findings: &mut Findings<'_>,
) -> Result<(), StoreError> {
    let metadata = record::read_metadata(store.backend(), location, id);
    findings.sift(id, metadata)?;
    let placed = Placed::read(store.backend(), location, id);
    let Some(mut placed) = findings.sift(id, placed)? else {
        return Ok(());
    };
    for error in std::mem::take(&mut placed.passed_over) {
        findings.keep(id, error)?;
    }
    check_older(store, &placed, findings)?;
    let parent = check_parent(store, &placed);
    findings.sift(id, parent)?;
    for entry in &placed.placement.files {
        if entry.kind == FileKind::MemoryMap || entry.kind == FileKind::MemoryData {
            continue;
        }
        let whole = match entry.kind {
            FileKind::WorkingSet => check_working_set(store, &placed, entry, findings),
            _ => check_whole_file(store, &placed, entry, findings),
        };
        findings.sift(id, whole)?;
    }
    for entry in &placed.placement.files {
        if entry.kind == FileKind::MemoryData {
            let memory = check_memory(store, &placed, entry, findings);
            findings.sift(id, memory)?;
        }
    }
    let parity = check_parity(store, location, id, findings);
    findings.sift(id, parity)?;
    let flattened = check_flattened(store, &placed, findings);
    findings.sift(id, flattened)?;
    let bound = bound::check(store, &placed, findings);
    findings.sift(id, bound)?;
    if location == Location::Live {
        let cached = check_cached(store, &placed, findings);
        findings.sift(id, cached)?;
    }
    Ok(())
}

/// Parity, where there is any: both tables, and every recovery shard.
fn check_parity(
    store: &Store,
    location: Location,
    id: SnapshotId,
    findings: &mut Findings<'_>,
) -> Result<(), StoreError> {
    let Some(parity) = OpenParity::open(store, location, id)? else {
        return Ok(());
    };
    let mut tell = |bytes| match findings.checked(bytes) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    };
    match parity.check(&mut tell)? {
        None => Ok(()),
        Some(problem) => {
            let problem = format!("{problem}; make it anew with parity add");
            Err(StoreError::damaged(&parity.path, problem))
        }
    }
}

/// Placements of lower generations count where the one that counts now is lost.
fn check_older(
    store: &Store,
    placed: &Placed,
    findings: &mut Findings<'_>,
) -> Result<(), StoreError> {
    let (backend, location, id) = (store.backend(), placed.location, placed.manifest.id);
    let there = placed::generations(backend, location, id);
    let there = findings.sift(id, there)?.unwrap_or_default();
    let counts = placed.placement.generation;
    for generation in there.into_iter().filter(|older| *older < counts) {
        let (manifest, digest) = (&placed.manifest, placed.digest);
        let read = placed::read_generation(backend, location, manifest, digest, generation);
        findings.sift(id, read)?;
    }
    Ok(())
}

/// The parent may be gone: it is history. If it is there, it must be the one that was named.
fn check_parent(store: &Store, placed: &Placed) -> Result<(), StoreError> {
    let Some(parent) = placed.manifest.parent else {
        return Ok(());
    };
    let Some(location) = store.whereabouts(parent.id)? else {
        return Ok(());
    };
    // A manifest that cannot be read is reported with the snapshot that it belongs to.
    match record::read_manifest(store.backend(), location, parent.id) {
        Ok((_, found)) if found != parent.digest => Err(StoreError::damaged(
            &placed.path(FileKind::Manifest, 0),
            format!(
                "its parent {} has digest {found}, and {} is named",
                parent.id, parent.digest
            ),
        )),
        _ => Ok(()),
    }
}

/// A file that is small enough to be read whole: length, digest, and that it decodes.
fn check_whole_file(
    store: &Store,
    placed: &Placed,
    entry: &FileEntry,
    findings: &mut Findings<'_>,
) -> Result<(), StoreError> {
    let path = placed.path(entry.kind, entry.index);
    let bytes = file::read(store.backend(), &path, limits::MAX_ENVELOPE_BYTES)?;
    let len = bytes.len() as u64;
    if len != entry.len_bytes {
        let problem = format!(
            "it has {len} bytes, and its placement says {}",
            entry.len_bytes
        );
        return Err(StoreError::damaged(&path, problem));
    }
    if entry.kind == FileKind::State {
        let state = StateFile::parse(&bytes).map_err(|error| StoreError::decode(&path, error))?;
        let parent = placed.manifest.parent.map(|parent| parent.id);
        if (state.id, state.parent) != (placed.manifest.id, parent) {
            return Err(StoreError::damaged(
                &path,
                "it is the state of another snapshot or another parent",
            ));
        }
    }
    let found = Digest::of(&bytes);
    if found != entry.digest {
        let problem = format!(
            "its digest is {found}, and its placement says {}",
            entry.digest
        );
        return Err(StoreError::damaged(&path, problem));
    }
    findings.checked(len)
}

/// A working set: its frame is the one that the placement names, each section has its digest, and
/// every page is as the snapshot has it.
fn check_working_set(
    store: &Store,
    placed: &Placed,
    entry: &FileEntry,
    findings: &mut Findings<'_>,
) -> Result<(), StoreError> {
    let id = placed.manifest.id;
    let file = store.open_working_set(id, entry)?;
    let mut checked = 0;
    let sections = file.check(&mut checked);
    findings.checked(checked)?;
    sections.map_err(StoreError::image)?;
    let digest = placed.digest;
    let mut set = WorkingSet::from_file(file, SnapshotRef { id, digest }, &placed.manifest.layout)?;
    let image = store.open_image(placed)?;
    // Its own bytes are counted already, and those of the snapshot with the files that hold them.
    set.compare(&image, &mut |_| match findings.checked(0) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    })?;
    Ok(())
}

/// A memory map and the data file that it describes.
fn check_memory(
    store: &Store,
    placed: &Placed,
    entry: &FileEntry,
    findings: &mut Findings<'_>,
) -> Result<(), StoreError> {
    let id = placed.manifest.id;
    let Some(map_root) = placed.manifest.map_root else {
        let path = placed.path(FileKind::MemoryData, entry.index);
        let problem = "the manifest names no memory";
        return Err(StoreError::damaged(&path, problem));
    };
    let file = store.open_data_file(&DataFileRef {
        snapshot: id,
        index: entry.index,
        map_root: entry.digest,
    })?;
    check_map(placed, entry, &file)?;
    watch(id, findings, &mut |report, progress| {
        file.check(report, progress);
    })?;
    if entry.index == 0 {
        return Ok(());
    }
    // Laid out anew: it holds the memory that the manifest names.
    let first = store.open_map(id, map_root)?;
    watch(id, findings, &mut |report, progress| {
        file.check_same(&first, report, progress);
    })
}

/// A check of a data file, which is told whom to report errors and progress to.
type Check<'a> = dyn FnMut(&mut dyn FnMut(ImageError), &mut dyn FnMut(u64) -> ControlFlow<()>) + 'a;

/// Runs a check and keeps what it finds.
fn watch(
    id: SnapshotId,
    findings: &mut Findings<'_>,
    check: &mut Check<'_>,
) -> Result<(), StoreError> {
    let mut problems = Vec::new();
    let mut stopped = Ok(());
    check(&mut |error| problems.push(error), &mut |bytes| {
        stopped = findings.checked(bytes);
        match stopped {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    });
    for source in problems {
        findings.keep(id, StoreError::image(source))?;
    }
    stopped
}

/// What a map must agree on with the manifest and the placement.
fn check_map(placed: &Placed, data: &FileEntry, file: &DataFile) -> Result<(), StoreError> {
    let path = placed.path(FileKind::MemoryMap, data.index);
    let root = file.root();
    let manifest = &placed.manifest;
    let entry = placed.placement.file(FileKind::MemoryMap, data.index);
    let place = placed.placement.dependencies.len();
    let own = placed.placement.dependencies.last();
    // One that does not count is of a longer chain, or of a shorter one where the placement was made
    // again: what binds it is the first file.
    let counts = own.is_some_and(|own| own.index == data.index);
    let is_placed = !counts || usize::from(root.file) == place;
    let problem = if (root.parent, &root.layout) != (manifest.parent, &manifest.layout) {
        "its parent or its memory layout are not those of the manifest"
    } else if !is_placed {
        "it names another place in the list of data files than the placement"
    } else if data.len_bytes != root.data_len_bytes {
        "it names another length of the data file than the placement"
    } else if entry.is_none_or(|entry| entry.digest != file.frame_digest()) {
        "its header and section table are not those that the placement names"
    } else {
        return Ok(());
    };
    Err(StoreError::damaged(&path, problem))
}

/// The materialised image, if there is one, against the memory.
fn check_cached(
    store: &Store,
    placed: &Placed,
    findings: &mut Findings<'_>,
) -> Result<(), StoreError> {
    let Some(cached) = store.find_cached(&placed.manifest)? else {
        return Ok(());
    };
    let (path, len_bytes) = (cached.path().clone(), cached.len_bytes());
    let layout = placed.manifest.layout.clone();
    let failed = |error| StoreError::io("compare", &path, std::io::Error::other(error));
    let raw = RawFile::image(cached.into_file(), layout).map_err(failed)?;
    let differing = store.open_image(placed)?.differing_pages(&raw, None);
    let differing = differing.map_err(|error| match error {
        CompareError::Image(error) => StoreError::image(error),
        other => StoreError::io("compare", &path, std::io::Error::other(other)),
    })?;
    findings.checked(len_bytes)?;
    match differing.iter_runs().next() {
        None => Ok(()),
        Some(first) => {
            let page = first.start.0;
            let problem = format!("page {page} of it is not that of the snapshot");
            Err(StoreError::CachedImage { path, problem })
        }
    }
}

/// Every leaf of the flattened map, each in the map of the data file that it is named to be in.
fn check_flattened(
    store: &Store,
    placed: &Placed,
    findings: &mut Findings<'_>,
) -> Result<(), StoreError> {
    let id = placed.manifest.id;
    if placed.manifest.map_root.is_none() {
        return Ok(());
    }
    let mut files = Vec::new();
    for data in &placed.placement.dependencies {
        let file = store.open_data_file(data);
        files.extend(findings.sift(id, file)?);
    }
    if files.len() < placed.placement.dependencies.len() {
        return Ok(());
    }
    let (layout, table) = (&placed.manifest.layout, &placed.placement.flattened);
    let image =
        MemoryImage::new(layout.clone(), table.clone(), files).map_err(StoreError::image)?;
    for leaf in table.refs() {
        let owners = image.owner_leaf(leaf.number);
        findings.sift(id, owners.map_err(StoreError::image))?;
    }
    Ok(())
}
