//! Laying the memory of a snapshot out anew, by a new placement.

use serde::Serialize;
use snapshot_format::{
    DataFileRef, DataLayout, FileEntry, FileKind, LeafTable, Operation, Placement, SnapshotId,
    limits,
};
use snapshot_memory::{DataFile, RelayoutError, RelayoutOptions, StagedPlacement};

use crate::directory::{self, Location};
use crate::error::StoreError;
use crate::placed::{self, Placed};
use crate::placing;
use crate::store::Store;

/// What laying a snapshot out anew did.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct RelayoutReport {
    /// Which snapshot.
    pub id: SnapshotId,
    /// Whether there is a new placement; there is none where the memory lies as was asked for.
    pub changed: bool,
    /// The generation of the placement that counts now.
    pub generation: u32,
    /// How the pages lay.
    pub layout_before: DataLayout,
    /// How they lie now.
    pub layout: DataLayout,
    /// The name of the data file that holds them now.
    pub file: String,
    /// Whether that file was written. It was not where one of this layout was still there: it was
    /// read and checked.
    pub written: bool,
    /// Bytes of blocks that data file and map occupied.
    pub bytes_before: u64,
    /// Bytes of blocks that data file and map occupy now. The files from before are kept.
    pub bytes_after: u64,
}

/// The data file that the new placement names as the snapshot's own.
struct NewData {
    reference: DataFileRef,
    owners: LeafTable,
    allocated_bytes: u64,
    written: bool,
}

impl Store {
    /// Lays the snapshot's own pages out anew, and makes a placement count that says so.
    ///
    /// What the snapshot is does not change: its manifest, its identity and what it reads stay. The
    /// files from before stay too, for snapshots that were made from it and for readers that have
    /// them open; nothing removes them yet. Pages that it inherits lie where they lay.
    ///
    /// Where a file of the wanted layout is still there from before, it is read and checked, and
    /// not written again.
    pub fn relayout(
        &self,
        id: SnapshotId,
        options: &RelayoutOptions,
    ) -> Result<RelayoutReport, StoreError> {
        let span = tracing::info_span!("relayout", snapshot = %id);
        let _inside = span.enter();
        options.check()?;
        let (place_lock, _lease, (before, source)) = self.begin_placement(id, |placed| {
            Ok((placed.placement.clone(), self.open_own(placed)?))
        })?;
        let mut report = report(&before, &source)?;
        if options.are_met_by(&source)? {
            return Ok(report);
        }
        let (backend, folder) = (self.shared_backend(), Location::Live.directory());
        let mut staged = StagedPlacement::begin(backend, folder, id)?;
        let data = if let Some(kept) = self.find_kept(&before, &source, options)? {
            recheck(&kept, options)?
        } else {
            let index = self.free_index(&before)?;
            write(&mut staged, &source, index, options)?
        };
        report.changed = true;
        report.layout = options.layout;
        report.file = FileKind::MemoryData.file_name(data.reference.index);
        report.written = data.written;
        report.bytes_after = data.allocated_bytes;
        report.generation = place_lock.next_generation(&before)?;
        let placement = successor(&before, &source, &data, staged.files(), report.generation)?;
        place_lock.publish(staged.seal(placement)?, &before)?;
        Ok(report)
    }

    /// Opens the data file with the snapshot's own pages.
    pub(crate) fn open_own(&self, placed: &Placed) -> Result<DataFile, StoreError> {
        let own = placed.placement.own_data(placed.manifest.map_root);
        let Some(own) = own.ok().flatten() else {
            return Err(StoreError::NotFound {
                what: format!("memory of snapshot {}", placed.manifest.id),
            });
        };
        let file = self.open_data_file(own)?;
        file.allow(Operation::Rewrite)?;
        if let Some(first) = self.open_first_map(own, placed.manifest.map_root)? {
            file.check_same_root(&first).map_err(StoreError::image)?;
        }
        Ok(file)
    }

    /// A data file that lies as is wanted, is there from before, and owns what `source` owns: one
    /// from before a consolidation does not.
    fn find_kept(
        &self,
        placement: &Placement,
        source: &DataFile,
        options: &RelayoutOptions,
    ) -> Result<Option<DataFile>, StoreError> {
        let files = placement.files.iter();
        for entry in files.filter(|entry| entry.kind == FileKind::MemoryData) {
            let file = self.open_data_file(&DataFileRef {
                snapshot: placement.id,
                index: entry.index,
                map_root: entry.digest,
            })?;
            if owns_the_same(&file, source) && options.are_met_by(&file)? {
                return Ok(Some(file));
            }
        }
        Ok(None)
    }

    /// A number that no memory file of the snapshot has.
    pub(crate) fn free_index(&self, placement: &Placement) -> Result<u32, StoreError> {
        let there = placed::added_files(self.backend(), Location::Live, placement.id)?;
        let named = placement.files.iter().map(|file| (file.kind, file.index));
        let memory = |kind| matches!(kind, FileKind::MemoryMap | FileKind::MemoryData);
        let all = there.into_iter().chain(named);
        let taken = all.filter(|(kind, _)| memory(*kind));
        let highest = taken.map(|(_, index)| index).max();
        placing::next(highest.unwrap_or(0), "data files of a snapshot")
    }
}

/// Whether two data files of a snapshot have the same place in the chain and the same leaves of its
/// flattened map.
fn owns_the_same(one: &DataFile, other: &DataFile) -> bool {
    let contents = |file: &DataFile| -> Vec<_> {
        let leaves = file.root().owners.refs().iter();
        leaves.map(|leaf| (leaf.number, leaf.digest)).collect()
    };
    one.root().file == other.root().file && contents(one) == contents(other)
}

/// The placement that follows `before`.
fn successor(
    before: &Placement,
    source: &DataFile,
    data: &NewData,
    added: &[FileEntry],
    generation: u32,
) -> Result<Placement, StoreError> {
    let path = directory::below(&Location::Live.snapshot(before.id), &before.file_name());
    let own = source.root().file;
    for leaf in before
        .flattened
        .refs()
        .iter()
        .filter(|leaf| leaf.file == own)
    {
        let new = data.owners.get(leaf.number);
        if new.is_none_or(|new| new.digest != leaf.digest) {
            let problem = "its flattened map is not that of its own data file";
            return Err(StoreError::damaged(&path, problem));
        }
    }
    let mut after = before.clone();
    after.generation = generation;
    after.flattened = before.flattened.overlaid(&data.owners);
    if let Some(last) = after.dependencies.last_mut() {
        *last = data.reference;
    }
    after.files.extend(added);
    after
        .files
        .sort_by_key(|file| (file.kind.number(), file.index));
    if after.files.len() > limits::MAX_FILES {
        return Err(StoreError::TooMany {
            what: "files of a snapshot",
            limit: limits::MAX_FILES,
        });
    }
    Ok(after)
}

/// A report of nothing that was done.
fn report(placement: &Placement, source: &DataFile) -> Result<RelayoutReport, StoreError> {
    let layout = source.root().data_layout;
    let bytes = source.allocated_bytes()?;
    Ok(RelayoutReport {
        id: placement.id,
        changed: false,
        generation: placement.generation,
        layout_before: layout,
        layout,
        file: FileKind::MemoryData.file_name(source.reference().index),
        written: false,
        bytes_before: bytes,
        bytes_after: bytes,
    })
}

fn write(
    staged: &mut StagedPlacement,
    source: &DataFile,
    index: u32,
    options: &RelayoutOptions,
) -> Result<NewData, StoreError> {
    let written = staged.relayout(source, index, options)?;
    Ok(NewData {
        reference: DataFileRef {
            snapshot: source.root().id,
            index,
            map_root: written.map_root,
        },
        owners: written.owners,
        allocated_bytes: written.allocated_bytes,
        written: true,
    })
}

/// Checks every byte of a file from before, so that no damage is made to count.
fn recheck(kept: &DataFile, options: &RelayoutOptions) -> Result<NewData, StoreError> {
    options.recheck(kept)?;
    Ok(NewData {
        reference: kept.reference(),
        owners: kept.root().owners.clone(),
        allocated_bytes: kept.allocated_bytes()?,
        written: false,
    })
}

impl From<RelayoutError> for StoreError {
    fn from(error: RelayoutError) -> Self {
        use snapshot_memory::SinkError;
        match error {
            RelayoutError::Read(error) => Self::image(error),
            RelayoutError::Write(SinkError::Cancelled) => Self::Interrupted,
            RelayoutError::Write(error) => error.into(),
            RelayoutError::Codec(error) => Self::Codec(error),
            RelayoutError::DurabilityUncertain(error) => Self::DurabilityUncertain {
                what: format!("a new placement in {}", error.path),
                source: error.source,
            },
            other => Self::Sink {
                source: Box::new(SinkError::Catalog(Box::new(other))),
            },
        }
    }
}
