//! To the cold tier and back: a new snapshot with the same memory and state.

use snapshot_format::SnapshotName;
use snapshot_memory::SinkError;
use snapshot_store::StoreError;
use snapshot_vault::{ArchiveOptions, CollectOptions, ThawBase, ThawName, ThawOptions, VaultError};

use super::model::{self, Kept, Model};
use super::plan::Plan;
use crate::random::Random;

/// Archives a snapshot and brings it back under a name of its own; the archive goes again.
pub(super) fn archive(model: &Model, random: &mut Random) -> Option<Plan> {
    let (source, from) = model.pick_live(random)?;
    let key = model.next;
    let live = |parent: &u64| model.snapshots.get(parent).is_some_and(|kept| kept.is_live);
    let kept = Kept {
        parent: from.parent.filter(live),
        ..from.clone()
    };
    let mut after = model.clone();
    after.next += 1;
    after.snapshots.insert(key, kept);
    let mut options = ThawOptions::default();
    options.name = ThawName::New(SnapshotName::new(model::name(key)).ok()?);
    if random.is_one_in(2) {
        options.base = ThawBase::Nothing;
    }
    let what = format!("archive {source}, and thaw it as {key}");
    Some(Plan::new(what, after, move |hands| {
        let id = hands.id(source)?;
        let archive = ArchiveOptions::default();
        let archived = hands.domain.archive_snapshot(hands.store, id, &archive);
        let archived = archived.map_err(of_store)?;
        let thawed = hands.domain.thaw(archived.id, hands.store, &options);
        // What is archived later has the labels of then.
        hands.domain.delete_archive(archived.id).map_err(of_store)?;
        let mut expire = CollectOptions::default();
        expire.expire_trash = true;
        hands.domain.collect(&expire).map_err(of_store)?;
        thawed.map(drop).map_err(of_store)
    }))
}

/// The error of the store that it is; any other is one of this check.
fn of_store(error: VaultError) -> StoreError {
    match error {
        VaultError::Store(error) => *error,
        error => SinkError::Catalog(Box::new(error)).into(),
    }
}
