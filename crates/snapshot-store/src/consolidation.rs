//! Fewer data files for a snapshot, by a new placement.

mod due;
mod policy;

use serde::Serialize;
use snapshot_format::{DataFileRef, FileKind, LEAF_PAGES, Placement, SnapshotId, VmName, limits};
use snapshot_memory::{
    ConsolidateOptions, DataFile, FileShare, ImageError, MemoryImage, StagedPlacement,
    WrittenLayout, choose_prefix,
};

use crate::directory::Location;
use crate::error::StoreError;
use crate::placed::Placed;
use crate::quota;
use crate::store::Store;

pub use due::{
    ChainAction, ChainDecision, ChainReason, ConsolidationOutcome, ConsolidationPlan,
    FailedConsolidation,
};
pub use policy::{ChainSimulation, ConsolidationPolicy, ConsolidationPolicyError};

/// How many data files of a chain stay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum KeptFiles {
    /// What the limits of the options say; nothing is done within them.
    ByLimits,
    /// None: the snapshot depends on no other.
    None,
}

/// What consolidating a snapshot did.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct ConsolidationReport {
    /// Which snapshot.
    pub id: SnapshotId,
    /// Whether there is a new placement; there is none where the chain is as was asked for.
    pub changed: bool,
    /// The generation of the placement that counts now.
    pub generation: u32,
    /// Data files that the snapshot needed.
    pub files_before: usize,
    /// Data files that it needs now.
    pub files_after: usize,
    /// The name of the data file with its own pages.
    pub file: String,
    /// Pages that were copied.
    pub copied_pages: u64,
    /// Bytes of blocks that the new data file and its map occupy. Nothing is removed.
    pub allocated_bytes: u64,
}

/// What is read before anything is written.
pub(crate) struct Chain {
    pub(crate) before: Placement,
    vm: VmName,
    image: MemoryImage,
    pub(crate) own: DataFile,
}

impl Store {
    /// Merges data files of a snapshot into one of its own, and makes a placement count that names it.
    ///
    /// What the snapshot, and every other one, reads stays the same. Data files that nobody needs any
    /// more are garbage from then on, and are collected as such.
    pub fn consolidate(
        &self,
        id: SnapshotId,
        kept: KeptFiles,
        options: &ConsolidateOptions,
    ) -> Result<ConsolidationReport, StoreError> {
        self.consolidate_as(id, options, |chain| match kept {
            KeptFiles::None => Ok((chain.before.dependencies.len() > 1).then_some(0)),
            KeptFiles::ByLimits => {
                let shares = chain.shares(&|_| false)?;
                Ok(choose_prefix(&shares, options.limits))
            }
        })
    }

    /// The same, where `choose` says how many files stay; `None` where nothing is to be done.
    fn consolidate_as(
        &self,
        id: SnapshotId,
        options: &ConsolidateOptions,
        choose: impl FnOnce(&Chain) -> Result<Option<usize>, StoreError>,
    ) -> Result<ConsolidationReport, StoreError> {
        let span = tracing::info_span!("consolidate", snapshot = %id);
        let _inside = span.enter();
        options.relayout.check()?;
        let (place_lock, _lease, chain) =
            self.begin_placement(id, |placed| self.open_chain(placed))?;
        let before = &chain.before;
        let mut report = unchanged(&chain);
        let Some(kept) = choose(&chain)? else {
            return Ok(report);
        };
        let folder = Location::Live.directory();
        let mut staged = StagedPlacement::begin(self.shared_backend(), folder, id)?;
        let index = self.free_index(before)?;
        let number = u16::try_from(kept).unwrap_or(u16::MAX);
        let written = staged.consolidate(&chain.image, &chain.own, number, index, options)?;
        quota::check(self, &chain.vm, written.allocated_bytes)?;
        report.changed = true;
        report.generation = place_lock.next_generation(before)?;
        report.files_after = kept + 1;
        report.file = FileKind::MemoryData.file_name(index);
        report.copied_pages = written.present;
        report.allocated_bytes = written.allocated_bytes;
        let mut after = successor(before, kept, index, &written, report.generation);
        after.files.extend(staged.files());
        after
            .files
            .sort_by_key(|file| (file.kind.number(), file.index));
        if after.files.len() > limits::MAX_FILES {
            return Err(StoreError::TooMany {
                what: "files of a snapshot",
                limit: limits::MAX_FILES,
            });
        }
        place_lock.publish(staged.seal(after)?, before)?;
        Ok(report)
    }

    pub(crate) fn open_chain(&self, placed: &Placed) -> Result<Chain, StoreError> {
        Ok(Chain {
            before: placed.placement.clone(),
            vm: placed.manifest.vm.clone(),
            image: self.open_image(placed)?,
            own: self.open_own(placed)?,
        })
    }
}

impl Chain {
    /// What the snapshot has of each data file. `is_needed` says which files stay whatever is done.
    fn shares(
        &self,
        is_needed: &dyn Fn(&DataFileRef) -> bool,
    ) -> Result<Vec<FileShare>, StoreError> {
        self.count(is_needed).map_err(StoreError::image)
    }

    fn count(
        &self,
        is_needed: &dyn Fn(&DataFileRef) -> bool,
    ) -> Result<Vec<FileShare>, ImageError> {
        let mut shares = vec![FileShare::default(); self.before.dependencies.len()];
        let files = self.before.dependencies.iter();
        for ((number, share), data) in (1..).zip(&mut shares).zip(files) {
            share.stored_pages = self.image.file(number)?.page_counts()?.present;
            share.is_needed = is_needed(data);
        }
        for leaf in self.image.table().refs() {
            let Some(owners) = self.image.owner_leaf(leaf.number)? else {
                continue;
            };
            let mut page = 0;
            while page < LEAF_PAGES {
                let run = owners.run(page, LEAF_PAGES - page).max(1);
                let owner = usize::from(owners.owner(page));
                let share = owner.checked_sub(1).and_then(|at| shares.get_mut(at));
                if let Some(share) = share {
                    share.owned_pages += run as u64;
                }
                page += run;
            }
        }
        Ok(shares)
    }
}

/// The placement that follows `before`, without the files that were added.
pub(crate) fn successor(
    before: &Placement,
    kept: usize,
    index: u32,
    written: &WrittenLayout,
    generation: u32,
) -> Placement {
    let mut after = before.clone();
    after.generation = generation;
    after.flattened = before.flattened.overlaid(&written.owners);
    after.dependencies.truncate(kept);
    after.dependencies.push(DataFileRef {
        snapshot: before.id,
        index,
        map_root: written.map_root,
    });
    after
}

/// A report of nothing that was done.
fn unchanged(chain: &Chain) -> ConsolidationReport {
    let files = chain.before.dependencies.len();
    ConsolidationReport {
        id: chain.before.id,
        changed: false,
        generation: chain.before.generation,
        files_before: files,
        files_after: files,
        file: FileKind::MemoryData.file_name(chain.own.reference().index),
        copied_pages: 0,
        allocated_bytes: 0,
    }
}
