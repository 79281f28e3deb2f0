//! Space given back: the plan of it, and its operations.

use std::num::NonZeroU32;

use snapshot_format::{SnapshotId, VmName};
use snapshot_memory::ConsolidateOptions;
use snapshot_store::retention::{KeepRule, RetentionPolicy};
use snapshot_store::{GarbageOptions, KeptFiles, Store, StoreError};

use super::laid::Laid;
use super::model::chain;
use super::scenario::{Operation, title};

/// What is collected one by one, in a store of its own: each step takes one thing at most, so that
/// there is a state before it and one after it.
pub(super) const PLAN: [(&str, Operation); 11] = [
    ("gc-create", Operation::Create),
    ("gc-full", Operation::Take(title("web", "base", None))),
    (
        "gc-diff",
        Operation::Take(title("web", "one", Some("web/base"))),
    ),
    (
        "gc-relayout",
        Operation::Relayout("web/one", Laid::Compressed),
    ),
    ("trim", Operation::Collect(&[])),
    ("gc-delete", Operation::Delete("web/one")),
    ("collect", Operation::Collect(&["web/one"])),
    (
        "gc-diff-anew",
        Operation::Take(title("web", "two", Some("web/base"))),
    ),
    ("prune", Operation::Prune("web/base")),
    ("consolidate", Operation::Consolidate("web/two")),
    // The placement from before, and with it the need for the base, which is no garbage before.
    ("trim-chain", Operation::Collect(&["web/base"])),
];

/// Collects garbage. A collection that says it is not complete may have done a part: what it was to
/// remove is there or is not.
pub(super) fn collect(store: &Store) -> Result<(), StoreError> {
    let collected = store.collect(&GarbageOptions::default());
    let problem = match collected {
        Ok(report) if report.is_complete() => return Ok(()),
        Ok(report) => format!("{:?}", report.problems),
        Err(error) => chain(&error),
    };
    Err(StoreError::DurabilityUncertain {
        what: "a part of the collection".to_owned(),
        source: std::io::Error::other(problem),
    })
}

/// Moves to the trash what is not the newest of its branch.
pub(super) fn prune(store: &Store) -> Result<(), StoreError> {
    let vm = VmName::new("web").map_err(|error| StoreError::InvalidReference {
        text: error.to_string(),
    })?;
    let newest = KeepRule::Last {
        count: NonZeroU32::MIN,
    };
    let policy = RetentionPolicy::default().keep(newest);
    let plan = store.plan_prune(&vm, &policy, u64::MAX)?;
    store.prune(&plan).map(drop)
}

/// All that a snapshot needs goes to a data file of its own.
pub(super) fn consolidate(store: &Store, id: SnapshotId) -> Result<(), StoreError> {
    let options = ConsolidateOptions::default();
    store.consolidate(id, KeptFiles::None, &options).map(drop)
}
