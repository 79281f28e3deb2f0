//! What differs between two snapshots.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use serde::Serialize;
use snapshot_format::{Operation, SectionKind, SectionPayload, SnapshotId};

use super::memory::MemoryDifference;
use crate::error::StoreError;
use crate::metadata::Metadata;
use crate::record::SnapshotRecord;
use crate::store::Store;

/// What differs between two snapshots, from the first to the second.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct SnapshotDifference {
    /// The first.
    pub before: SnapshotId,
    /// The second.
    pub after: SnapshotId,
    /// The memory; `None` where one of them has none.
    pub memory: Option<MemoryDifference>,
    /// The machine state.
    pub state: SectionChanges,
    /// Whether the VMM's configuration differs.
    pub config_changed: bool,
    /// What is attached to them.
    pub attached: Vec<AttachedChange>,
}

/// Sections of machine state that differ.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct SectionChanges {
    /// How many are the same.
    pub same: u64,
    /// Those that differ.
    pub changed: Vec<SectionChange>,
    /// Those that the second one alone has.
    pub added: Vec<SectionChange>,
    /// Those that the first one alone has.
    pub removed: Vec<SectionChange>,
}

/// A section of machine state.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct SectionChange {
    /// What it holds.
    pub kind: String,
    /// Which of that kind.
    pub instance: u32,
}

/// Something that people attach, with both values; `None` where there is none.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct AttachedChange {
    /// What: `name`, `description`, `protected`, `branch`, `tag.<tag>`, `label.<key>`.
    pub key: String,
    /// In the first snapshot.
    pub before: Option<String>,
    /// In the second.
    pub after: Option<String>,
}

impl Store {
    /// Compares two snapshots in use. `tell` is given the pages of memory that are done, and ends
    /// the comparison by breaking.
    pub fn difference(
        &self,
        before: SnapshotId,
        after: SnapshotId,
        tell: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<SnapshotDifference, StoreError> {
        let span = tracing::info_span!("difference", %before, %after);
        let _inside = span.enter();
        let (old, new) = (self.snapshot(before)?, self.snapshot(after)?);
        let memory = if old.has_memory && new.has_memory {
            let open = |id| self.image_to(Operation::Read, id);
            let (old, new) = (open(before)?, open(after)?);
            let compared = MemoryDifference::of(old.image(), new.image(), tell);
            Some(compared?.ok_or(StoreError::Interrupted)?)
        } else {
            None
        };
        let (old_state, new_state) = (self.state(before)?, self.state(after)?);
        let config = |id| Ok::<_, StoreError>(self.manifest(id)?.vm_config);
        Ok(SnapshotDifference {
            before,
            after,
            memory,
            state: sections(old_state.payloads(), new_state.payloads()),
            config_changed: config(before)? != config(after)?,
            attached: attached(&old, &new),
        })
    }
}

fn sections<'s>(
    before: impl Iterator<Item = &'s SectionPayload>,
    after: impl Iterator<Item = &'s SectionPayload>,
) -> SectionChanges {
    let named = |section: &'s SectionPayload| ((section.kind, section.instance), section);
    let mut old: BTreeMap<(SectionKind, u32), &SectionPayload> = before.map(named).collect();
    let mut changes = SectionChanges::default();
    let told = |(kind, instance): (SectionKind, u32)| SectionChange {
        kind: kind.to_string(),
        instance,
    };
    for (key, section) in after.map(named) {
        match old.remove(&key) {
            Some(same) if same == section => changes.same += 1,
            Some(_) => changes.changed.push(told(key)),
            None => changes.added.push(told(key)),
        }
    }
    changes.removed = old.into_keys().map(told).collect();
    changes
}

fn attached(before: &SnapshotRecord, after: &SnapshotRecord) -> Vec<AttachedChange> {
    let mut old = values(before);
    let mut changes = Vec::new();
    for (key, value) in values(after) {
        let was = old.remove(&key);
        if was.as_ref() != Some(&value) {
            changes.push(AttachedChange {
                key,
                before: was,
                after: Some(value),
            });
        }
    }
    changes.extend(old.into_iter().map(|(key, value)| AttachedChange {
        key,
        before: Some(value),
        after: None,
    }));
    changes.sort_by(|a, b| a.key.cmp(&b.key));
    changes
}

/// What is attached to a snapshot, by key.
fn values(record: &SnapshotRecord) -> BTreeMap<String, String> {
    let Metadata {
        name,
        description,
        labels,
        tags,
        protected,
    } = &record.metadata;
    let named = name
        .iter()
        .map(|name| ("name".to_owned(), name.to_string()));
    let described = Some(description.as_str()).filter(|text| !text.is_empty());
    let described = described.map(|text| ("description".to_owned(), text.to_owned()));
    let labels = labels.iter();
    let labels = labels.map(|(key, value)| (format!("label.{key}"), value.to_string()));
    let tags = tags.iter().map(|tag| (format!("tag.{tag}"), String::new()));
    let fixed = [
        ("branch".to_owned(), record.branch.to_string()),
        ("protected".to_owned(), protected.to_string()),
    ];
    fixed
        .into_iter()
        .chain(named)
        .chain(described)
        .chain(labels)
        .chain(tags)
        .collect()
}
