//! The part of a snapshot that may change: `snapshot.json`.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use snapshot_format::{Description, LabelKey, LabelValue, SnapshotId, SnapshotName, Tag, limits};

use crate::checked_json::{self, Fault};
use crate::error::StoreError;

/// The version of `snapshot.json` that this build writes.
pub(crate) const VERSION: u32 = 1;

/// What people attach to a snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Metadata {
    /// A name, unique among the snapshots of the virtual machine.
    pub name: Option<SnapshotName>,
    /// Free text.
    pub description: Description,
    /// Keys and values.
    pub labels: BTreeMap<LabelKey, LabelValue>,
    /// Words to select by.
    pub tags: BTreeSet<Tag>,
    /// Whether the snapshot may not be deleted.
    pub protected: bool,
}

/// The content of the file: bound to its snapshot, so that one cannot stand in for another.
#[derive(Serialize, Deserialize)]
struct Body {
    version: u32,
    id: SnapshotId,
    #[serde(flatten)]
    metadata: Metadata,
}

impl Metadata {
    /// What is taken for the metadata of a snapshot whose own cannot be read: nothing that is
    /// known, and protected.
    pub(crate) fn unreadable() -> Self {
        Self {
            protected: true,
            ..Self::default()
        }
    }

    /// Checks the counts; names and texts are checked by their types.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        let within = |what, count: usize, limit| {
            if count <= limit {
                Ok(())
            } else {
                Err(StoreError::TooMany { what, limit })
            }
        };
        within("labels", self.labels.len(), limits::MAX_LABELS)?;
        within("tags", self.tags.len(), limits::MAX_TAGS)
    }

    /// What a copy of the `snapshot.json` of `id` says; `None` where it is damaged, of another
    /// snapshot, or of a later version.
    pub fn of_copy(id: SnapshotId, bytes: &[u8]) -> Option<Self> {
        Self::decode(id, bytes).ok()
    }

    /// The bytes of the `snapshot.json` of `id`.
    pub(crate) fn encode(&self, id: SnapshotId) -> Result<Vec<u8>, StoreError> {
        self.check()?;
        checked_json::encode(&Body {
            version: VERSION,
            id,
            metadata: self.clone(),
        })
        .map_err(|source| StoreError::EncodeJson { source })
    }

    /// What the `snapshot.json` of `id` says.
    pub(crate) fn decode(id: SnapshotId, bytes: &[u8]) -> Result<Self, Fault> {
        let body: Body = checked_json::decode(bytes, VERSION)?;
        if body.id != id {
            return Err(Fault::Corrupt(format!(
                "it belongs to snapshot {}",
                body.id
            )));
        }
        body.metadata
            .check()
            .map_err(|error| Fault::Corrupt(error.to_string()))?;
        Ok(body.metadata)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata() -> Metadata {
        Metadata {
            name: Some(SnapshotName::new("base").unwrap()),
            description: Description::new("before the\nupdate").unwrap(),
            labels: BTreeMap::from([(
                LabelKey::new("team").unwrap(),
                LabelValue::new("storage, \"core\"").unwrap(),
            )]),
            tags: BTreeSet::from([Tag::new("nightly").unwrap()]),
            protected: true,
        }
    }

    // spec: STO-08
    #[test]
    fn metadata_survives_its_file_and_stays_with_its_snapshot() {
        let (id, other) = (SnapshotId([1; 16]), SnapshotId([2; 16]));
        let bytes = metadata().encode(id).unwrap();
        assert_eq!(Metadata::decode(id, &bytes), Ok(metadata()));
        Metadata::decode(other, &bytes).unwrap_err();
    }

    // spec: STO-09
    #[test]
    fn counts_beyond_the_caps_are_refused() {
        let id = SnapshotId([1; 16]);
        let mut labels = metadata();
        labels.labels = (0..=limits::MAX_LABELS)
            .map(|n| {
                (
                    LabelKey::new(format!("k{n}")).unwrap(),
                    LabelValue::default(),
                )
            })
            .collect();
        let mut tags = metadata();
        tags.tags = (0..=limits::MAX_TAGS)
            .map(|n| Tag::new(format!("t{n}")).unwrap())
            .collect();
        for metadata in [labels, tags] {
            metadata.encode(id).unwrap_err();
        }
    }
}
