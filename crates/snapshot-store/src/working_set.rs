//! The working set of a snapshot: published, read and dropped by new placements.

use serde::Serialize;
use snapshot_format::{FileEntry, FileKind, Placement, SnapshotId};
use snapshot_memory::backend::RelPath;
use snapshot_memory::{EnvelopeFile, StagedFile, StagedPlacement};

use crate::directory::Location;
use crate::error::StoreError;
use crate::lease::Lease;
use crate::placed;
use crate::placing::PlaceLock;
use crate::store::Store;

/// A working set of a snapshot that is open, with the lease that keeps the snapshot.
///
/// Length, header and section table were checked, and are those that the placement names; sections
/// are checked by whoever reads them.
#[derive(Debug)]
pub struct StoredWorkingSet {
    file: EnvelopeFile,
    entry: FileEntry,
    lease: Lease,
}

/// A working set that is being written to become the one of its snapshot. Dropping it leaves
/// everything as it was.
///
/// No other new placement of the snapshot can be made meanwhile.
#[derive(Debug)]
pub struct WorkingSetStage {
    // Fields are dropped in this order: the stage goes while its lock is held.
    staged: StagedPlacement,
    file: StagedFile,
    store: Store,
    before: Placement,
    generation: u32,
    _lease: Lease,
    place_lock: PlaceLock,
}

/// A new placement that gives a snapshot a working set, or takes it away.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct WorkingSetReport {
    /// Which snapshot.
    pub id: SnapshotId,
    /// The generation of the placement that counts now.
    pub generation: u32,
    /// The name of the working set; `None`: there is none now.
    pub file: Option<String>,
    /// Its length in bytes.
    pub len_bytes: u64,
}

impl StoredWorkingSet {
    /// The file.
    pub fn file(&self) -> &EnvelopeFile {
        &self.file
    }

    /// What the placement says of it.
    pub fn entry(&self) -> &FileEntry {
        &self.entry
    }

    /// The file and what keeps the snapshot apart.
    pub fn into_parts(self) -> (EnvelopeFile, Lease) {
        (self.file, self.lease)
    }
}

impl Store {
    /// Opens the working set of a snapshot in use; `None` if it has none.
    pub fn working_set(&self, id: SnapshotId) -> Result<Option<StoredWorkingSet>, StoreError> {
        let (found, lease) = self.leased(id, |placed| {
            let Some(entry) = named(&placed.placement).copied() else {
                return Ok(None);
            };
            let file = self.open_working_set(id, &entry)?;
            Ok(Some((file, entry)))
        })?;
        Ok(found.map(|(file, entry)| StoredWorkingSet { file, entry, lease }))
    }

    /// Begins the working set of a snapshot in use, which must have memory.
    pub fn stage_working_set(&self, id: SnapshotId) -> Result<WorkingSetStage, StoreError> {
        let (place_lock, lease, before) =
            self.begin_placement(id, |placed| Ok(placed.placement.clone()))?;
        if before.file(FileKind::MemoryData, 0).is_none() {
            return Err(StoreError::NotFound {
                what: format!("memory of snapshot {id}"),
            });
        }
        let generation = place_lock.next_generation(&before)?;
        let folder = Location::Live.directory();
        let staged = StagedPlacement::begin(self.shared_backend(), folder, id)?;
        // The number of the placement that names it first: no other ever has it.
        let file = staged.create(FileKind::WorkingSet, generation)?;
        Ok(WorkingSetStage {
            staged,
            file,
            store: self.clone(),
            before,
            generation,
            _lease: lease,
            place_lock,
        })
    }

    /// Makes these bytes, an envelope of a working set, the working set of a snapshot in use.
    pub fn publish_working_set(
        &self,
        id: SnapshotId,
        bytes: &[u8],
    ) -> Result<WorkingSetReport, StoreError> {
        let mut stage = self.stage_working_set(id)?;
        stage.require_room(bytes.len() as u64)?;
        let written = stage.file().write_all_at(0, bytes);
        written.map_err(snapshot_memory::SinkError::from)?;
        stage.publish()
    }

    /// Takes the working set of a snapshot in use away; `None` if it has none.
    pub fn drop_working_set(&self, id: SnapshotId) -> Result<Option<WorkingSetReport>, StoreError> {
        let (place_lock, _lease, before) =
            self.begin_placement(id, |placed| Ok(placed.placement.clone()))?;
        if named(&before).is_none() {
            return Ok(None);
        }
        let generation = place_lock.next_generation(&before)?;
        let folder = Location::Live.directory();
        let staged = StagedPlacement::begin(self.shared_backend(), folder, id)?;
        let sealed = staged.seal(successor(&before, generation, None))?;
        place_lock.publish(sealed, &before)?;
        Ok(Some(WorkingSetReport {
            id,
            generation,
            file: None,
            len_bytes: 0,
        }))
    }

    /// Opens a working set that a placement names, of a snapshot that is in use or deleted.
    pub(crate) fn open_working_set(
        &self,
        id: SnapshotId,
        entry: &FileEntry,
    ) -> Result<EnvelopeFile, StoreError> {
        let (path, file) = placed::open_file(self.backend(), id, entry.kind, entry.index)?;
        let len = file
            .len()
            .map_err(|error| StoreError::io("measure", &path, error))?;
        if len != entry.len_bytes {
            let expected = entry.len_bytes;
            let problem = format!("it has {len} bytes, and its placement says {expected}");
            return Err(StoreError::damaged(&path, problem));
        }
        let file = EnvelopeFile::open(file, path.as_str().to_owned(), FileKind::WorkingSet)?;
        if file.digest() != entry.digest {
            let problem = "its header and section table are not those that its placement names";
            return Err(StoreError::damaged(&path, problem));
        }
        check_owner(&file, id, &path)?;
        Ok(file)
    }
}

impl WorkingSetStage {
    /// The file to write. It must become an envelope of kind working set with the snapshot's id.
    pub fn file(&mut self) -> &mut StagedFile {
        &mut self.file
    }

    /// Refuses what the store has no room for.
    pub fn require_room(&self, bytes: u64) -> Result<(), StoreError> {
        Ok(self.staged.require_room(bytes)?)
    }

    /// Makes the file durable and lets a placement count that names it. The working set from
    /// before, if there was one, is removed; who has it open reads on.
    pub fn publish(self) -> Result<WorkingSetReport, StoreError> {
        let Self {
            mut staged,
            file,
            store,
            before,
            generation,
            _lease,
            place_lock,
        } = self;
        let entry = store.examine_staged(&file, before.id, generation)?;
        staged.add(file, entry);
        let sealed = staged.seal(successor(&before, generation, Some(entry)))?;
        place_lock.publish(sealed, &before)?;
        Ok(WorkingSetReport {
            id: before.id,
            generation,
            file: Some(entry.file_name()),
            len_bytes: entry.len_bytes,
        })
    }
}

impl Store {
    /// Reads the frame of a working set that was written: none is published that could not be
    /// opened.
    fn examine_staged(
        &self,
        file: &StagedFile,
        id: SnapshotId,
        index: u32,
    ) -> Result<FileEntry, StoreError> {
        let path = file.path();
        let failed = |error| StoreError::io("read", path, error);
        let written = self.backend().open(path).map_err(failed)?;
        let len_bytes = written.len().map_err(failed)?;
        let kind = FileKind::WorkingSet;
        let written = EnvelopeFile::open(written, path.as_str().to_owned(), kind)?;
        check_owner(&written, id, path)?;
        Ok(FileEntry {
            kind,
            index,
            len_bytes,
            digest: written.digest(),
        })
    }
}

fn check_owner(file: &EnvelopeFile, id: SnapshotId, path: &RelPath) -> Result<(), StoreError> {
    let found = file.header().id;
    if found == id {
        return Ok(());
    }
    let problem = format!("it is the working set of snapshot {found}");
    Err(StoreError::damaged(path, problem))
}

/// The working set that a placement names. Of several, which no writer makes, the newest.
fn named(placement: &Placement) -> Option<&FileEntry> {
    let mut files = placement.files.iter();
    files.rfind(|file| file.kind == FileKind::WorkingSet)
}

/// The placement that follows `before` and names `entry` as the one working set.
fn successor(before: &Placement, generation: u32, entry: Option<FileEntry>) -> Placement {
    let mut after = before.clone();
    after.generation = generation;
    after.files.retain(|file| file.kind != FileKind::WorkingSet);
    after.files.extend(entry);
    after
        .files
        .sort_by_key(|file| (file.kind.number(), file.index));
    after
}
