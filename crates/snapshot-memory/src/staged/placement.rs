//! A new placement of a published snapshot, with the files that it adds: staged, sealed, published.

use std::io;
use std::sync::Arc;

use snapshot_format::{Content, FileEntry, FileKind, Placement, SnapshotId};

use super::StagedFile;
use super::discard::{StageDir, sync_dir};
use super::snapshot::join;
use crate::backend::{Backend, RelPath};
use crate::consolidation::ConsolidateOptions;
use crate::error::{FileError, SinkError};
use crate::image::{DataFile, MemoryImage};
use crate::relayout::{self, Merge, RelayoutError, RelayoutOptions, WrittenLayout};

/// Before the id in the name of a directory in which a new placement is prepared.
pub const PLACE_PREFIX: &str = ".place-";

/// Files of a new placement, being written to `<folder>/.place-<id>`, a hidden sibling of the
/// snapshots.
///
/// Nothing of it is visible. Dropping it removes it.
#[derive(Debug)]
pub struct StagedPlacement {
    dir: StageDir,
    folder: RelPath,
    /// Written and not yet durable.
    open: Vec<StagedFile>,
    /// What was written.
    files: Vec<FileEntry>,
}

/// A placement and its files, complete and durable. Dropping it removes them.
#[derive(Debug)]
pub struct SealedPlacement {
    dir: StageDir,
    folder: RelPath,
    files: Vec<FileEntry>,
    placement: Placement,
}

impl StagedPlacement {
    /// Makes the staged directory of a new placement of `id` in `folder`, which must exist.
    pub fn begin(
        backend: Arc<dyn Backend>,
        folder: RelPath,
        id: SnapshotId,
    ) -> Result<Self, RelayoutError> {
        let stage = join(&folder, &format!("{PLACE_PREFIX}{id}"))?;
        Ok(Self {
            dir: StageDir::create(backend, stage)?,
            folder,
            open: Vec::new(),
            files: Vec::new(),
        })
    }

    /// Writes the pages of `source` to a data file and a map of number `index`, laid out as the
    /// options say. Refused before a byte is written where there is no room.
    pub fn relayout(
        &mut self,
        source: &DataFile,
        index: u32,
        options: &RelayoutOptions,
    ) -> Result<WrittenLayout, RelayoutError> {
        let span = tracing::debug_span!("relayout", index);
        let _entered = span.enter();
        self.require_room(relayout::room(source)?)?;
        let mut data = self.create(FileKind::MemoryData, index)?;
        let mut map = self.create(FileKind::MemoryMap, index)?;
        let written = relayout::copy(source, options, &mut data, &mut map)?;
        self.keep(index, &written, [data, map]);
        Ok(written)
    }

    /// Writes what the data files of `image` after the first `kept` hold of it to one data file and a
    /// map of number `index`. `own` is the snapshot's own data file. Refused before a byte is written
    /// where there is no room.
    pub fn consolidate(
        &mut self,
        image: &MemoryImage,
        own: &DataFile,
        kept: u16,
        index: u32,
        options: &ConsolidateOptions,
    ) -> Result<WrittenLayout, RelayoutError> {
        let span = tracing::debug_span!("consolidate", index, kept);
        let _entered = span.enter();
        let merge = Merge::plan(image, own.root(), kept, options.fragmentation);
        let merge = merge.map_err(RelayoutError::Read)?;
        self.require_room(merge.room())?;
        let mut data = self.create(FileKind::MemoryData, index)?;
        let mut map = self.create(FileKind::MemoryMap, index)?;
        let written = merge.write(&options.relayout, &mut data, &mut map)?;
        self.keep(index, &written, [data, map]);
        Ok(written)
    }

    /// Notes a data file and a map that were written.
    fn keep(&mut self, index: u32, written: &WrittenLayout, files: [StagedFile; 2]) {
        let entry = |kind, len_bytes, digest| FileEntry {
            kind,
            index,
            len_bytes,
            digest,
        };
        let (data_len, map_len) = (written.data_len_bytes, written.map_len_bytes);
        self.files.extend([
            entry(FileKind::MemoryData, data_len, written.map_root),
            entry(FileKind::MemoryMap, map_len, written.map_frame),
        ]);
        self.open.extend(files);
    }

    /// Creates a file that the new placement will name, which is handed back by
    /// [`add`](Self::add) once it is written.
    pub fn create(&self, kind: FileKind, index: u32) -> Result<StagedFile, SinkError> {
        let path = join(self.dir.path(), &kind.file_name(index))?;
        Ok(StagedFile::create(&**self.dir.backend(), path)?)
    }

    /// Takes a file of [`create`](Self::create) back; `entry` is what the placement will say of
    /// it.
    pub fn add(&mut self, file: StagedFile, entry: FileEntry) {
        self.files.push(entry);
        self.open.push(file);
    }

    /// The directory, the files that are not durable yet, and what was written.
    pub(super) fn into_parts(self) -> (StageDir, Vec<StagedFile>, Vec<FileEntry>) {
        (self.dir, self.open, self.files)
    }

    /// The files that were written, for the placement.
    #[must_use]
    pub fn files(&self) -> &[FileEntry] {
        &self.files
    }

    /// Writes the placement that names all files, and makes everything durable.
    pub fn seal(mut self, placement: Placement) -> Result<SealedPlacement, RelayoutError> {
        let bytes = placement.encode();
        Content::read(&bytes).map_err(|source| SinkError::Unreadable {
            file: placement.file_name(),
            source,
        })?;
        for file in self.open.drain(..) {
            file.seal()?;
        }
        let mut file = self.create(FileKind::Placement, placement.generation)?;
        file.write_all_at(0, &bytes)?;
        file.seal()?;
        Ok(SealedPlacement {
            dir: self.dir,
            folder: self.folder,
            files: self.files,
            placement,
        })
    }

    /// Refuses what the file system has no room for.
    pub fn require_room(&self, needed_bytes: u64) -> Result<(), SinkError> {
        self.dir.require_room(needed_bytes)
    }
}

impl SealedPlacement {
    /// The placement.
    #[must_use]
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// Gives the files their names in `target`, the directory of the snapshot, the placement last.
    /// Nothing is replaced. The caller holds the lock under which placements are published.
    ///
    /// Files of the names `superseded`, which the placement before may name and nobody needs, are
    /// removed once this one is durable. Where that fails the placement counts all the same, and
    /// whoever opens the store next removes them.
    pub fn publish(mut self, target: &RelPath, superseded: &[String]) -> Result<(), RelayoutError> {
        let span = tracing::debug_span!("publish placement", %target);
        let _entered = span.enter();
        // The stage marks the snapshot as one in which files may lie that no placement names: it
        // is durable before they are, and goes after the placement counts.
        sync_dir(&**self.dir.backend(), &self.folder)?;
        let mut moved = Vec::new();
        if let Err(error) = self.rename_all(target, &mut moved) {
            self.take_back(target, &moved);
            return Err(error);
        }
        sync_dir(&**self.dir.backend(), target).map_err(|error| {
            self.dir.leave();
            RelayoutError::DurabilityUncertain(error)
        })?;
        if let Err(error) = self.remove(target, superseded) {
            tracing::warn!(%error, "files that are needed no more remain");
            self.dir.leave();
        }
        Ok(())
    }

    /// Removes files for good, so that the mark may go.
    fn remove(&self, target: &RelPath, names: &[String]) -> Result<(), SinkError> {
        let backend = &**self.dir.backend();
        for name in names {
            let path = join(target, name)?;
            match backend.remove_file(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed.map_err(FileError::at("remove", &path))?,
            }
        }
        if names.is_empty() {
            return Ok(());
        }
        Ok(sync_dir(backend, target)?)
    }

    /// Renames the files that are added, makes that durable, then renames the placement.
    fn rename_all(&self, target: &RelPath, moved: &mut Vec<RelPath>) -> Result<(), RelayoutError> {
        for file in &self.files {
            moved.push(self.rename(&file.file_name(), target)?);
        }
        if !moved.is_empty() {
            sync_dir(&**self.dir.backend(), target)?;
        }
        self.rename(&self.placement.file_name(), target)?;
        Ok(())
    }

    fn rename(&self, name: &str, target: &RelPath) -> Result<RelPath, RelayoutError> {
        let (from, to) = (join(self.dir.path(), name)?, join(target, name)?);
        let renamed = self.dir.backend().rename_noreplace(&from, &to);
        renamed.map_err(FileError::at("publish as", &to))?;
        Ok(to)
    }

    /// Removes what has a name already. Where that fails the stage stays, as a mark for whoever
    /// opens the store next.
    fn take_back(&mut self, target: &RelPath, moved: &[RelPath]) {
        let backend = &**self.dir.backend();
        let removed = moved.iter().try_for_each(|path| {
            let removed = backend.remove_file(path);
            removed.map_err(FileError::at("remove", path))
        });
        if let Err(error) = removed.and_then(|()| sync_dir(backend, target)) {
            tracing::warn!(%error, "files that no placement names remain");
            self.dir.leave();
        }
    }
}
