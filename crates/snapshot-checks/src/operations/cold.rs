//! To the cold tier and back: a new snapshot with the same memory and state, or the same one.

use std::collections::BTreeMap;

use snapshot_format::SnapshotName;
use snapshot_memory::SinkError;
use snapshot_store::StoreError;
use snapshot_vault::{
    ArchiveOptions, CollectOptions, Domain, ObjectId, ThawBase, ThawName, ThawOptions, VaultError,
};

use super::model::{self, Kept, Key, Model};
use super::plan::Plan;
use crate::random::Random;

/// Archives a snapshot and brings it back under a name of its own; the archive goes again.
pub(super) fn archive(model: &Model, random: &mut Random) -> Option<Plan> {
    // What is archived already has the labels of then.
    let all = model.live();
    let all: Vec<_> = all
        .filter(|(key, _)| !model.archived.contains_key(key))
        .collect();
    let (source, from) = *random.pick(&all)?;
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

/// Archives a snapshot; the archive stays.
pub(super) fn keep(model: &Model, random: &mut Random) -> Option<Plan> {
    let all = model.live();
    let all: Vec<_> = all
        .filter(|(key, _)| !model.archived.contains_key(key))
        .collect();
    let (key, kept) = *random.pick(&all)?;
    let mut after = model.clone();
    after.archived.insert(key, kept.clone());
    Some(Plan::new(format!("keep {key}"), after, move |hands| {
        let id = hands.id(key)?;
        let options = ArchiveOptions::default();
        let archived = hands.domain.archive_snapshot(hands.store, id, &options);
        archived.map(drop).map_err(of_store)
    }))
}

/// Brings a snapshot back that is gone: under its id, whatever became of its parent and its children.
pub(super) fn bring_back(model: &Model, random: &mut Random) -> Option<Plan> {
    let all = model.archived.iter();
    let all: Vec<_> = all
        .filter(|(key, _)| !model.snapshots.contains_key(key))
        .collect();
    let (key, kept) = *random.pick(&all)?;
    let (key, mut after) = (*key, model.clone());
    after.snapshots.insert(key, kept.clone());
    Some(Plan::new(
        format!("bring {key} back"),
        after,
        move |hands| {
            let archives = self::kept(hands.domain).map_err(of_store)?;
            let archive = archives.get(&key).ok_or_else(|| StoreError::NotFound {
                what: format!("an archive of {key}"),
            })?;
            let options = ThawOptions::default();
            let returned = hands.domain.bring_back(*archive, hands.store, &options);
            returned.map(drop).map_err(of_store)
        },
    ))
}

/// The archives of a vault by the numbers of their snapshots.
pub(super) fn kept(domain: &Domain) -> Result<BTreeMap<Key, ObjectId>, VaultError> {
    let archives = domain.catalog()?.archives.into_iter();
    let kept = archives.filter(|found| !found.is_deleted);
    let named = kept.filter_map(|found| {
        let name = found.metadata?.name?;
        Some((model::key(name.as_str())?, found.archive))
    });
    Ok(named.collect())
}

/// The error of the store that it is; any other is one of this check.
fn of_store(error: VaultError) -> StoreError {
    match error {
        VaultError::Store(error) => *error,
        error => SinkError::Catalog(Box::new(error)).into(),
    }
}
