//! A snapshot that takes all of another one over.

use snapshot_format::{Operation, SnapshotRef};
use snapshot_memory::{DirtyBitmap, Pages, Stability};

use crate::error::StoreError;
use crate::sink::{NewSnapshot, StoreStage};
use crate::store::Store;

impl Store {
    /// Stages a snapshot with the memory, machine state, configuration and fingerprint of `giver`,
    /// which becomes its parent. It stores no page of its own.
    pub(crate) fn stage_copy(
        &self,
        giver: SnapshotRef,
        new: NewSnapshot,
    ) -> Result<StoreStage, StoreError> {
        let manifest = self.manifest(giver.id)?;
        let mut stage = self
            .sink(NewSnapshot {
                arch: manifest.arch,
                parent: Some(giver),
                config: manifest.vm_config,
                fingerprint: manifest.fingerprint,
                ..new
            })
            .stage()?;
        // The stage leases the giver from here on.
        for section in self.state(giver.id)?.payloads() {
            stage.section(section.clone());
        }
        let stored = self.image_to(Operation::Extend, giver.id)?;
        let unchanged = DirtyBitmap::new(stored.image().layout().page_count());
        let pages = Pages::Since {
            base: giver,
            dirty: &unchanged,
        };
        stage.memory(stored.image(), pages, Stability::Paused)?;
        Ok(stage)
    }
}
