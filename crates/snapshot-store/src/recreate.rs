//! Making a snapshot anew from its parent.

use serde::Serialize;
use snapshot_format::{SnapshotId, SnapshotName};

use crate::error::{Refusal, StoreError};
use crate::sink::NewSnapshot;
use crate::store::Store;

/// What making a snapshot anew did.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct RecreateReport {
    /// The new snapshot.
    pub id: SnapshotId,
    /// The one whose place it took, which is in the trash.
    pub replaced: SnapshotId,
    /// The parent of both, whose memory and machine state the new one has.
    pub parent: SnapshotId,
    /// The name of both.
    pub name: Option<SnapshotName>,
}

impl Store {
    /// Publishes a snapshot with the memory and machine state of `id`'s parent in the place of `id`,
    /// which goes to the trash.
    ///
    /// The new one is there before the old one goes, and gets its name after that: whatever stops
    /// this in between, both are in the store, in use or in the trash.
    pub fn recreate_from_parent(&self, id: SnapshotId) -> Result<RecreateReport, StoreError> {
        let span = tracing::info_span!("recreate", snapshot = %id);
        let _inside = span.enter();
        let record = self.snapshot(id)?;
        let parent = record.parent.ok_or_else(|| StoreError::NotFound {
            what: format!("a parent of snapshot {id}"),
        })?;
        let plan = self.plan_delete(id)?;
        match &plan.refusal {
            // The new one becomes the head.
            None | Some(Refusal::Current { .. }) => {}
            Some(reason) => {
                let reason = reason.clone();
                return Err(StoreError::Refused { id, reason });
            }
        }
        let mut metadata = record.metadata;
        let name = metadata.name.take();
        let new = NewSnapshot::of(record.vm)
            .branch(record.branch)
            .metadata(metadata);
        let published = self.stage_copy(parent, new)?.seal()?.publish()?;
        self.delete(&plan)?;
        let made = published.snapshot.id;
        if name.is_some() {
            let given = name.clone();
            self.change_metadata(made, |metadata| metadata.name = given)?;
        }
        Ok(RecreateReport {
            id: made,
            replaced: id,
            parent: parent.id,
            name,
        })
    }
}
