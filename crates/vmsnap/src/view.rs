//! Snapshots as commands show them: the JSON keys of `specs/09-cli.md`, and lines for people.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;
use snapshot_format::SnapshotId;
use snapshot_store::{DamagedSnapshot, Listing, SnapshotRecord};

use crate::quantity::show_bytes;
use crate::table::{draw, table};

/// One snapshot.
#[derive(Serialize, Clone, Debug)]
pub(crate) struct SnapshotView {
    pub(crate) id: SnapshotId,
    pub(crate) vm: String,
    pub(crate) seq: u64,
    pub(crate) name: Option<String>,
    pub(crate) branch: String,
    pub(crate) parent: Option<SnapshotId>,
    #[serde(rename = "type")]
    pub(crate) kind: Kind,
    pub(crate) state: State,
    /// RFC 3339, in UTC.
    pub(crate) created: String,
    pub(crate) created_unix_ms: u64,
    pub(crate) memory_bytes: u64,
    pub(crate) has_memory: bool,
    pub(crate) has_state: bool,
    pub(crate) protected: bool,
    pub(crate) description: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) tags: BTreeSet<String>,
    /// Why name, labels and tags could not be read.
    pub(crate) metadata_problem: Option<String>,
}

/// A snapshot of which not even the identity can be read.
#[derive(Serialize, Clone, Debug)]
pub(crate) struct DamagedView {
    pub(crate) id: SnapshotId,
    pub(crate) state: State,
    pub(crate) kind: &'static str,
    pub(crate) problem: String,
}

/// Whether a snapshot stands alone or on its parent.
#[derive(Serialize, Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Full,
    Diff,
}

/// Where a snapshot is in its life.
#[derive(Serialize, Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    Live,
    Trash,
}

impl From<snapshot_store::Location> for State {
    fn from(location: snapshot_store::Location) -> Self {
        match location {
            snapshot_store::Location::Live => Self::Live,
            snapshot_store::Location::Trash => Self::Trash,
        }
    }
}

impl From<State> for snapshot_store::Location {
    fn from(state: State) -> Self {
        match state {
            State::Live => Self::Live,
            State::Trash => Self::Trash,
        }
    }
}

impl From<&SnapshotRecord> for SnapshotView {
    fn from(record: &SnapshotRecord) -> Self {
        let metadata = &record.metadata;
        let labels = metadata.labels.iter();
        Self {
            id: record.id,
            vm: record.vm.to_string(),
            seq: record.seq,
            name: metadata.name.as_ref().map(ToString::to_string),
            branch: record.branch.to_string(),
            parent: record.parent.map(|parent| parent.id),
            kind: if record.parent.is_some() {
                Kind::Diff
            } else {
                Kind::Full
            },
            state: record.location.into(),
            created: show_time(record.created_unix_ms, &TimeZone::UTC),
            created_unix_ms: record.created_unix_ms,
            memory_bytes: record.layout.len_bytes(),
            has_memory: record.has_memory,
            has_state: record.has_state,
            protected: metadata.protected,
            description: metadata.description.to_string(),
            labels: labels
                .map(|(key, value)| (key.to_string(), value.to_string()))
                .collect(),
            tags: metadata.tags.iter().map(ToString::to_string).collect(),
            metadata_problem: record.metadata_problem.clone(),
        }
    }
}

impl From<&DamagedSnapshot> for DamagedView {
    fn from(damaged: &DamagedSnapshot) -> Self {
        Self {
            id: damaged.id,
            state: damaged.location.into(),
            kind: crate::context::exit_of(damaged.kind).name(),
            problem: damaged.problem.clone(),
        }
    }
}

impl SnapshotView {
    /// `VM/NAME`, or `VM #SEQ` where it has no name.
    pub(crate) fn title(&self) -> String {
        match &self.name {
            Some(name) => format!("{}/{name}", self.vm),
            None => format!("{} #{}", self.vm, self.seq),
        }
    }

    /// When it was made, in the time zone of the reader.
    pub(crate) fn local_time(&self) -> String {
        show_local_time(self.created_unix_ms)
    }

    /// Tags and labels in one line.
    pub(crate) fn marks(&self) -> String {
        let tags = self.tags.iter().cloned();
        let labels = self
            .labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"));
        let protected = self.protected.then(|| "protected".to_owned());
        tags.chain(labels)
            .chain(protected)
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// A time in the time zone of the reader.
pub(crate) fn show_local_time(unix_ms: u64) -> String {
    show_time(unix_ms, &TimeZone::system())
}

/// The views of a listing.
pub(crate) fn views(listing: &Listing) -> (Vec<SnapshotView>, Vec<DamagedView>) {
    (
        listing.snapshots.iter().map(SnapshotView::from).collect(),
        listing.damaged.iter().map(DamagedView::from).collect(),
    )
}

/// The end of an id, which tells neighbours apart: the beginning is the time.
pub(crate) fn short(id: SnapshotId) -> String {
    let text = id.to_string();
    text.rsplit('-').next().unwrap_or(&text).to_owned()
}

/// Bytes of blocks, by snapshot and in all.
#[derive(Serialize, Clone, Debug, Default)]
pub(crate) struct Sizes {
    pub(crate) total_bytes: u64,
    pub(crate) snapshots: BTreeMap<String, u64>,
}

/// A table of snapshots, and a line for each damaged one.
pub(crate) fn show_list(
    snapshots: &[SnapshotView],
    damaged: &[DamagedView],
    sizes: Option<&Sizes>,
) -> String {
    let titles = [
        "ID", "VM", ">SEQ", "NAME", "TYPE", "PARENT", ">MEMORY", "CREATED", "MARKS", ">ON DISK",
    ];
    // The last column is there where sizes are.
    let columns = titles.len() - usize::from(sizes.is_none());
    let mut rows = table(titles.get(..columns).unwrap_or(&titles));
    for one in snapshots {
        let size = sizes.map(|sizes| sizes.snapshots.get(&one.id.to_string()).copied());
        let size = size.map(|bytes| show_bytes(bytes.unwrap_or(0)));
        let cells = [
            short(one.id),
            one.vm.clone(),
            one.seq.to_string(),
            one.name.clone().unwrap_or_else(|| "-".to_owned()),
            format!("{:?}", one.kind).to_lowercase(),
            one.parent.map_or_else(|| "-".to_owned(), short),
            show_bytes(one.memory_bytes),
            one.local_time(),
            one.marks(),
        ];
        rows.add_row(cells.into_iter().chain(size));
    }
    let mut text = if snapshots.is_empty() {
        "no snapshots\n".to_owned()
    } else {
        draw(&rows)
    };
    if let Some(sizes) = sizes {
        text.push_str(&show_bytes(sizes.total_bytes));
        text.push_str(" on disk\n");
    }
    for one in damaged {
        text.push_str(&crate::failure::printable(&format!(
            "damaged: {}: {}",
            one.id, one.problem
        )));
        text.push('\n');
    }
    text
}

/// Whole seconds, with the offset of the time zone; the number itself where it is no time.
fn show_time(unix_ms: u64, zone: &TimeZone) -> String {
    let time = i64::try_from(unix_ms)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok());
    match time {
        Some(time) if *zone == TimeZone::UTC => time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        Some(time) => time
            .to_zoned(zone.clone())
            .strftime("%Y-%m-%d %H:%M:%S %:z")
            .to_string(),
        None => format!("{unix_ms} ms since 1970"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_and_nonsense_does_not_stop_a_list() {
        assert_eq!(show_time(0, &TimeZone::UTC), "1970-01-01T00:00:00Z");
        assert_eq!(
            show_time(u64::MAX, &TimeZone::UTC),
            format!("{} ms since 1970", u64::MAX)
        );
    }

    #[test]
    fn the_short_form_of_an_id_is_its_end() {
        assert_eq!(short(SnapshotId([0x1f; 16])), "1f1f1f1f1f1f");
    }
}
