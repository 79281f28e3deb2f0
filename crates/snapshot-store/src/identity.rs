//! New identities.

use snapshot_format::SnapshotId;
use uuid::Uuid;

/// A UUID of version 7: it sorts by time where clocks agree, and nothing relies on that.
pub(crate) fn new_id() -> SnapshotId {
    SnapshotId(*Uuid::now_v7().as_bytes())
}
