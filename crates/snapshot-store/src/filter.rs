//! Which snapshots of a listing are meant.

use std::str::FromStr;

use snapshot_format::{BranchName, LabelKey, LabelValue, Tag, VmName};

use crate::error::StoreError;
use crate::pattern::{MAX_PATTERN_BYTES, NamePattern};
use crate::record::SnapshotRecord;

/// Which snapshots are meant: those that fit all that is set.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Filter {
    /// Those of this machine, in any case.
    pub vm: Option<VmName>,
    /// Those that were taken on this branch, in any case.
    pub branch: Option<BranchName>,
    /// Those that have all of these tags.
    pub tags: Vec<Tag>,
    /// Those that have all of these labels, with this value where one is given.
    pub labels: Vec<(LabelKey, Option<LabelValue>)>,
    /// Those that have a parent, or those that have none.
    pub has_parent: Option<bool>,
    /// Those whose name is meant by this pattern.
    pub name: Option<NamePattern>,
    /// Those in which this text occurs.
    pub text: Option<SearchText>,
}

/// A text to search for, in any case.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SearchText(String);

/// The key of the label that is a snapshot's category.
pub const CATEGORY: &str = "category";

impl Filter {
    /// Whether a snapshot is meant.
    #[must_use]
    pub fn selects(&self, record: &SnapshotRecord) -> bool {
        let metadata = &record.metadata;
        let labelled = |(key, value): &(LabelKey, Option<LabelValue>)| {
            let found = metadata.labels.get(key);
            found.is_some_and(|found| value.as_ref().is_none_or(|value| value == found))
        };
        let is_meant = |pattern: &NamePattern| {
            let name = metadata.name.as_ref();
            name.is_some_and(|name| pattern.matches(name))
        };
        let branch = self.branch.as_ref();
        self.vm
            .as_ref()
            .is_none_or(|vm| vm.key() == record.vm.key())
            && branch.is_none_or(|branch| branch.key() == record.branch.key())
            && self.tags.iter().all(|tag| metadata.tags.contains(tag))
            && self.labels.iter().all(labelled)
            && self
                .has_parent
                .is_none_or(|has| has == record.parent.is_some())
            && self.name.as_ref().is_none_or(is_meant)
            && self.text.as_ref().is_none_or(|text| text.occurs_in(record))
    }
}

impl SearchText {
    fn occurs_in(&self, record: &SnapshotRecord) -> bool {
        let metadata = &record.metadata;
        let has = |text: &str| text.to_lowercase().contains(&self.0);
        let labels = &mut metadata.labels.iter();
        metadata
            .name
            .as_ref()
            .is_some_and(|name| has(name.as_str()))
            || has(metadata.description.as_str())
            || metadata.tags.iter().any(|tag| has(tag.as_str()))
            || labels.any(|(key, value)| has(key.as_str()) || has(value.as_str()))
            || has(&record.id.to_string())
    }
}

impl FromStr for SearchText {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() || text.len() > MAX_PATTERN_BYTES {
            return Err(StoreError::InvalidText {
                text: text.chars().take(MAX_PATTERN_BYTES).collect(),
                what: "text to search for",
            });
        }
        Ok(Self(text.to_lowercase()))
    }
}

#[cfg(test)]
mod tests;
