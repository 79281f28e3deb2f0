//! A snapshot as the index keeps it.

use std::collections::{BTreeMap, BTreeSet};

use snapshot_format::{
    BranchName, Description, Digest, GuestAddress, LabelKey, LabelValue, MemoryLayout,
    MemoryRegion, SnapshotId, SnapshotName, SnapshotRef, Tag, VmName,
};

use crate::directory::Location;
use crate::metadata::Metadata;
use crate::record::SnapshotRecord;

const HAS_MEMORY: u8 = 1;
const HAS_STATE: u8 = 1 << 1;
const IS_PROTECTED: u8 = 1 << 2;
const HAS_PARENT: u8 = 1 << 3;
const HAS_NAME: u8 = 1 << 4;
const FLAGS: u8 = HAS_MEMORY | HAS_STATE | IS_PROTECTED | HAS_PARENT | HAS_NAME;

/// The bytes that are kept of a snapshot; `None` of one that could not be read whole.
pub(super) fn encode(record: &SnapshotRecord) -> Option<Vec<u8>> {
    if record.metadata_problem.is_some() {
        return None;
    }
    let metadata = &record.metadata;
    let flags = [
        (record.has_memory, HAS_MEMORY),
        (record.has_state, HAS_STATE),
        (metadata.protected, IS_PROTECTED),
        (record.parent.is_some(), HAS_PARENT),
        (metadata.name.is_some(), HAS_NAME),
    ];
    let set = flags.iter().filter(|(is_set, _)| *is_set);
    let mut row = vec![set.fold(0, |all, (_, flag)| all | flag)];
    row.extend(record.digest.0);
    row.extend(record.seq.to_le_bytes());
    row.extend(record.created_unix_ms.to_le_bytes());
    if let Some(parent) = &record.parent {
        row.extend(parent.id.0);
        row.extend(parent.digest.0);
    }
    let regions = record.layout.regions();
    put_count(&mut row, regions.len())?;
    for region in regions {
        row.extend(region.start.0.to_le_bytes());
        row.extend(region.len_bytes.to_le_bytes());
    }
    put_text(&mut row, record.vm.as_str())?;
    put_text(&mut row, record.branch.as_str())?;
    if let Some(name) = &metadata.name {
        put_text(&mut row, name.as_str())?;
    }
    put_text(&mut row, metadata.description.as_str())?;
    put_count(&mut row, metadata.labels.len())?;
    for (key, value) in &metadata.labels {
        put_text(&mut row, key.as_str())?;
        put_text(&mut row, value.as_str())?;
    }
    put_count(&mut row, metadata.tags.len())?;
    for tag in &metadata.tags {
        put_text(&mut row, tag.as_str())?;
    }
    Some(row)
}

/// The snapshot that bytes were kept of; `None` where they say none.
pub(super) fn decode(location: Location, id: SnapshotId, row: &[u8]) -> Option<SnapshotRecord> {
    let mut row = Fields(row);
    let [flags] = row.array()?;
    if flags & !FLAGS != 0 {
        return None;
    }
    let has = |flag: u8| flags & flag != 0;
    let digest = Digest(row.array()?);
    let (seq, created_unix_ms) = (row.number()?, row.number()?);
    let parent = if has(HAS_PARENT) {
        let (id, digest) = (SnapshotId(row.array()?), Digest(row.array()?));
        Some(SnapshotRef { id, digest })
    } else {
        None
    };
    let region = |row: &mut Fields<'_>| {
        let (start, len_bytes) = (GuestAddress(row.number()?), row.number()?);
        Some(MemoryRegion { start, len_bytes })
    };
    let regions: Option<_> = (0..row.count()?).map(|_| region(&mut row)).collect();
    let layout = MemoryLayout::new(regions?).ok()?;
    let vm = VmName::new(row.text()?).ok()?;
    let branch = BranchName::new(row.text()?).ok()?;
    let metadata = metadata(&mut row, has(HAS_NAME), has(IS_PROTECTED))?;
    let record = SnapshotRecord {
        id,
        digest,
        vm,
        seq,
        branch,
        parent,
        created_unix_ms,
        layout,
        has_memory: has(HAS_MEMORY),
        has_state: has(HAS_STATE),
        location,
        metadata,
        metadata_problem: None,
    };
    row.0.is_empty().then_some(record)
}

fn metadata(row: &mut Fields<'_>, has_name: bool, protected: bool) -> Option<Metadata> {
    let name = if has_name {
        Some(SnapshotName::new(row.text()?).ok()?)
    } else {
        None
    };
    let description = Description::new(row.text()?).ok()?;
    let mut labels = BTreeMap::new();
    for _ in 0..row.count()? {
        let key = LabelKey::new(row.text()?).ok()?;
        labels.insert(key, LabelValue::new(row.text()?).ok()?);
    }
    let mut tags = BTreeSet::new();
    for _ in 0..row.count()? {
        tags.insert(Tag::new(row.text()?).ok()?);
    }
    let metadata = Metadata {
        name,
        description,
        labels,
        tags,
        protected,
    };
    metadata.check().ok()?;
    Some(metadata)
}

/// Puts a count, which is capped far below what fits.
fn put_count(row: &mut Vec<u8>, count: usize) -> Option<()> {
    row.extend(u16::try_from(count).ok()?.to_le_bytes());
    Some(())
}

fn put_text(row: &mut Vec<u8>, text: &str) -> Option<()> {
    put_count(row, text.len())?;
    row.extend(text.as_bytes());
    Some(())
}

/// What is left of a row.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn number(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn count(&mut self) -> Option<usize> {
        self.array().map(u16::from_le_bytes).map(usize::from)
    }

    fn text(&mut self) -> Option<&'a str> {
        let len = self.count()?;
        let (text, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        std::str::from_utf8(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> SnapshotRecord {
        let region = |start, len_bytes| MemoryRegion {
            start: GuestAddress(start),
            len_bytes,
        };
        let reference = SnapshotRef {
            id: SnapshotId([3; 16]),
            digest: Digest([4; 32]),
        };
        let label = |key, value| Some((LabelKey::new(key).ok()?, LabelValue::new(value).ok()?));
        SnapshotRecord {
            id: SnapshotId([1; 16]),
            digest: Digest([2; 32]),
            vm: VmName::new("Web").unwrap(),
            seq: 7,
            branch: BranchName::new("fix").unwrap(),
            parent: Some(reference),
            created_unix_ms: 8,
            layout: MemoryLayout::new(vec![region(0, 4096), region(8192, 4096)]).unwrap(),
            has_memory: true,
            has_state: false,
            location: Location::Live,
            metadata: Metadata {
                name: SnapshotName::new("base").ok(),
                description: Description::new("before\nthe \"update\", ä").unwrap(),
                labels: [label("team", "core"), label("a", "")]
                    .into_iter()
                    .flatten()
                    .collect(),
                tags: ["x", "y"].into_iter().flat_map(Tag::new).collect(),
                protected: true,
            },
            metadata_problem: None,
        }
    }

    fn told(record: &SnapshotRecord) -> serde_json::Value {
        serde_json::to_value(record).unwrap()
    }

    // spec: IDX-05
    #[test]
    fn a_record_survives_its_row() {
        let full = record();
        let mut bare = record();
        (bare.parent, bare.metadata) = (None, Metadata::default());
        (bare.has_memory, bare.has_state) = (false, true);
        for record in [full, bare] {
            let row = encode(&record).unwrap();
            let read = decode(record.location, record.id, &row).unwrap();
            assert_eq!(told(&read), told(&record));
        }
        let mut unreadable = record();
        unreadable.metadata_problem = Some("damaged".to_owned());
        assert_eq!(encode(&unreadable), None);
    }

    // spec: IDX-07
    #[test]
    fn a_row_that_is_cut_or_too_long_or_none_says_nothing() {
        let record = record();
        let decode = |row: &[u8]| decode(record.location, record.id, row);
        let row = encode(&record).unwrap();
        for len in 0..row.len() {
            assert!(decode(&row[..len]).is_none(), "cut at {len}");
        }
        assert!(decode(&[&row[..], &[0]].concat()).is_none());
        // Every bit of it means something.
        for at in 0..row.len() {
            for bit in 0..8 {
                let mut flipped = row.clone();
                flipped[at] ^= 1 << bit;
                let read = decode(&flipped).and_then(|read| encode(&read));
                assert_ne!(read.as_ref(), Some(&row), "bit {bit} at {at}");
            }
        }
        let mut unknown = row.clone();
        unknown[0] |= 1 << 7;
        assert!(decode(&unknown).is_none());
    }
}
