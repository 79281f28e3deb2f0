//! Putting the state of one branch onto another.

use serde::Serialize;
use snapshot_format::{BranchName, LabelKey, LabelValue, SnapshotId, VmName};

use crate::error::StoreError;
use crate::forest::Forest;
use crate::metadata::Metadata;
use crate::sink::NewSnapshot;
use crate::store::Store;

/// The key of the label whose value is the side of a merge that is not the parent.
pub const MERGED: &str = "vmsnap.merged";

/// Which side of a merge gives memory and machine state, always both.
///
/// There is no third: pages point into each other, and registers point into pages. A mixture of two
/// memories is a machine that never was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Giver {
    /// The snapshot that is merged.
    #[default]
    Source,
    /// The head of the branch that it is merged onto.
    Target,
}

/// What is to be merged.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Merge {
    /// The machine whose branch grows.
    pub vm: VmName,
    /// What is merged.
    pub source: SnapshotId,
    /// The branch that it is merged onto.
    pub target: BranchName,
    /// Which side gives memory and machine state.
    pub giver: Giver,
    /// What is attached to the new snapshot, beside the label [`MERGED`].
    pub metadata: Metadata,
}

/// What a merge did.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct MergeReport {
    /// The new snapshot.
    pub id: SnapshotId,
    /// Its machine.
    pub vm: VmName,
    /// The branch that it is on.
    pub branch: BranchName,
    /// The side that gave memory and machine state: the parent.
    pub giver: SnapshotId,
    /// The other side.
    pub merged: SnapshotId,
    /// The first snapshot that both sides descend from.
    pub common_ancestor: Option<SnapshotId>,
}

impl Merge {
    /// A merge of `source` onto the branch `target` of `vm`, whose memory the source gives.
    #[must_use]
    pub fn of(vm: VmName, source: SnapshotId, target: BranchName) -> Self {
        Self {
            vm,
            source,
            target,
            giver: Giver::Source,
            metadata: Metadata::default(),
        }
    }

    /// Sets [`giver`](Self::giver).
    #[must_use]
    pub fn giver(mut self, giver: Giver) -> Self {
        self.giver = giver;
        self
    }

    /// Sets [`metadata`](Self::metadata).
    #[must_use]
    pub fn metadata(mut self, metadata: Metadata) -> Self {
        self.metadata = metadata;
        self
    }
}

impl Store {
    /// Merges a snapshot onto a branch, as a new snapshot of that.
    pub fn merge(&self, merge: &Merge) -> Result<MergeReport, StoreError> {
        let span = tracing::info_span!("merge", source = %merge.source);
        let _inside = span.enter();
        let (head, branch) = self.head_of(merge)?;
        let forest = Forest::of(&self.list(None)?.snapshots);
        if forest.is_on_path(merge.source, head) {
            return Err(StoreError::Exists {
                what: format!("snapshot {} in branch {branch}", merge.source),
            });
        }
        let (giver, merged) = match merge.giver {
            Giver::Source => (merge.source, head),
            Giver::Target => (head, merge.source),
        };
        for side in [giver, merged] {
            if !self.snapshot(side)?.has_memory {
                return Err(StoreError::NotFound {
                    what: format!("memory of snapshot {side}"),
                });
            }
        }
        let new = NewSnapshot::of(merge.vm.clone())
            .branch(branch.clone())
            .metadata(labelled(merge.metadata.clone(), merged)?);
        let sealed = self
            .stage_copy(self.snapshot(giver)?.reference(), new)?
            .seal()?;
        // It holds the lock of the machine: the head moves no more.
        if self.head_of(merge)?.0 != head {
            return Err(StoreError::Overtaken {
                what: format!("branch {branch} of VM {}", merge.vm),
            });
        }
        let published = sealed.publish()?;
        Ok(MergeReport {
            id: published.snapshot.id,
            vm: merge.vm.clone(),
            branch,
            giver,
            merged,
            common_ancestor: forest.common_ancestor(giver, merged),
        })
    }

    /// The head of the target, and the branch as it is spelled.
    fn head_of(&self, merge: &Merge) -> Result<(SnapshotId, BranchName), StoreError> {
        let branch = self.branch(&merge.vm, &merge.target)?;
        let head = branch.head.ok_or_else(|| StoreError::NotFound {
            what: format!("the head of branch {} of VM {}", branch.name, merge.vm),
        })?;
        Ok((head, branch.name))
    }
}

/// `metadata` with the other side of the merge.
fn labelled(mut metadata: Metadata, merged: SnapshotId) -> Result<Metadata, StoreError> {
    let invalid = |_| StoreError::InvalidText {
        text: MERGED.to_owned(),
        what: "label",
    };
    let key = LabelKey::new(MERGED).map_err(invalid)?;
    let value = LabelValue::new(merged.to_string()).map_err(invalid)?;
    metadata.labels.insert(key, value);
    metadata.check()?;
    Ok(metadata)
}
