//! A snapshot that is complete and durable, and waits for its name.

use snapshot_format::{Manifest, Placement, SnapshotRef};

use super::discard::{StageDir, sync_dir};
use crate::backend::RelPath;
use crate::error::PublishError;
use crate::sink::{MemoryStats, Published};

/// A complete and durable snapshot that nobody sees yet. Dropping it removes it.
#[derive(Debug)]
pub struct SealedSnapshot {
    dir: StageDir,
    folder: RelPath,
    target: RelPath,
    reference: SnapshotRef,
    manifest: Manifest,
    placement: Placement,
    stats: MemoryStats,
}

impl SealedSnapshot {
    pub(super) fn new(
        dir: StageDir,
        folder: RelPath,
        target: RelPath,
        reference: SnapshotRef,
        manifest: Manifest,
        placement: Placement,
        stats: MemoryStats,
    ) -> Self {
        Self {
            dir,
            folder,
            target,
            reference,
            manifest,
            placement,
            stats,
        }
    }

    /// What a child will name it by.
    #[must_use]
    pub fn reference(&self) -> SnapshotRef {
        self.reference
    }

    /// Its manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Its placement: the files, and every data file that it depends on. Look them up again, under
    /// the lock that excludes deleting, before publishing.
    #[must_use]
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// What writing memory did.
    #[must_use]
    pub fn stats(&self) -> MemoryStats {
        self.stats
    }

    /// Makes the snapshot visible, by one rename that replaces nothing, and makes that durable.
    pub fn publish(mut self) -> Result<Published, PublishError> {
        let span = tracing::debug_span!("publish", snapshot = %self.reference.id);
        let _entered = span.enter();
        if *self.dir.path() != self.target {
            let renamed = self.dir.rename(&self.target);
            renamed.map_err(|error| PublishError::NotCommitted {
                id: self.reference.id,
                source: Box::new(error.into()),
            })?;
        }
        let synced = sync_dir(&**self.dir.backend(), &self.folder);
        synced.map_err(|source| PublishError::DurabilityUncertain {
            snapshot: self.reference,
            source,
        })?;
        Ok(Published {
            snapshot: self.reference,
        })
    }
}
