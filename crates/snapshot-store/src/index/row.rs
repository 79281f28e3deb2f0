//! A snapshot as the index keeps it.

use serde::{Deserialize, Serialize};
use snapshot_format::{
    BranchName, Digest, MemoryLayout, MemoryRegion, SnapshotId, SnapshotRef, VmName,
};

use crate::directory::Location;
use crate::metadata::Metadata;
use crate::record::SnapshotRecord;

/// What a list says of a snapshot, but for what its place in the index says.
#[derive(Serialize, Deserialize)]
struct Row {
    digest: Digest,
    vm: VmName,
    seq: u64,
    branch: BranchName,
    parent: Option<SnapshotRef>,
    created_unix_ms: u64,
    regions: Vec<MemoryRegion>,
    has_memory: bool,
    has_state: bool,
    metadata: Metadata,
}

/// The text that is kept of a snapshot; `None` of one that could not be read whole.
pub(super) fn encode(record: &SnapshotRecord) -> Option<String> {
    if record.metadata_problem.is_some() {
        return None;
    }
    let row = Row {
        digest: record.digest,
        vm: record.vm.clone(),
        seq: record.seq,
        branch: record.branch.clone(),
        parent: record.parent,
        created_unix_ms: record.created_unix_ms,
        regions: record.layout.regions().to_vec(),
        has_memory: record.has_memory,
        has_state: record.has_state,
        metadata: record.metadata.clone(),
    };
    serde_json::to_string(&row).ok()
}

/// The snapshot that a text was kept of; `None` where it says none.
pub(super) fn decode(location: Location, id: SnapshotId, text: &str) -> Option<SnapshotRecord> {
    let row: Row = serde_json::from_str(text).ok()?;
    row.metadata.check().ok()?;
    Some(SnapshotRecord {
        id,
        digest: row.digest,
        vm: row.vm,
        seq: row.seq,
        branch: row.branch,
        parent: row.parent,
        created_unix_ms: row.created_unix_ms,
        layout: MemoryLayout::new(row.regions).ok()?,
        has_memory: row.has_memory,
        has_state: row.has_state,
        location,
        metadata: row.metadata,
        metadata_problem: None,
    })
}
