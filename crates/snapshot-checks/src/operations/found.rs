//! What a store holds, and which of two models that is.

use std::collections::BTreeMap;

use snapshot_format::{PageRange, SectionKind, SnapshotId, VmName};
use snapshot_store::{SnapshotRecord, Store, StoredImage};

use super::model::{self, Kept, Key, Model, VMS};
use crate::stored_guest::tell;

/// Which models a store may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Allowed {
    Before,
    After,
    Either,
}

/// The identities of snapshots, which stay.
pub(super) type Ids = BTreeMap<Key, SnapshotId>;

/// Compares the store with `before` and `after`: everything that is listed, and every byte of every
/// snapshot in use. What it holds is returned.
pub(super) fn settle(
    store: &Store,
    ids: &mut Ids,
    (before, after): (&Model, &Model),
    allowed: Allowed,
    is_atomic: bool,
) -> Result<Model, String> {
    let found = listed(store)?;
    for (key, record) in &found {
        let known = *ids.entry(*key).or_insert(record.id);
        if known != record.id {
            return Err(format!("{key} has another identity"));
        }
    }
    let mut settled = after.clone();
    settled.current = current(store)?;
    let mut sides = Sides::default();
    let keys = before.snapshots.keys().chain(after.snapshots.keys());
    for key in keys.chain(found.keys()) {
        let record = found.get(key);
        let [old, new] = [before, after].map(|model| model.snapshots.get(key));
        let is = |kept: Option<&Kept>| match (kept, record) {
            (None, None) => Ok(()),
            (Some(kept), Some(record)) => same(kept, record, ids),
            (Some(_), None) => Err("it is gone".to_owned()),
            (None, Some(_)) => Err("it should not be there".to_owned()),
        };
        let (old_fits, new_fits) = (is(old), is(new));
        let problem = match allowed {
            Allowed::Before => old_fits.clone().err(),
            Allowed::After => new_fits.clone().err(),
            Allowed::Either => new_fits.clone().err().filter(|_| old_fits.is_err()),
        };
        if let Some(problem) = problem {
            return Err(format!("{key}: {problem}"));
        }
        if old != new {
            sides.old |= new_fits.is_err();
            sides.new |= old_fits.is_err();
        }
        let kept = if new_fits.is_ok() { new } else { old };
        match kept {
            Some(kept) => {
                settled.snapshots.insert(*key, kept.clone());
            }
            None => {
                settled.snapshots.remove(key);
            }
        }
    }
    if is_atomic && sides.old && sides.new {
        return Err("a part of the operation is visible, and a part is not".to_owned());
    }
    for (key, kept) in settled.live() {
        let id = found.get(&key).map(|record| record.id);
        let id = id.ok_or_else(|| format!("{key} is not listed"))?;
        bytes(store, id, kept).map_err(|error| format!("{key}: {error}"))?;
    }
    Ok(settled)
}

/// Whether changes were found not made, and made.
#[derive(Default)]
struct Sides {
    old: bool,
    new: bool,
}

/// The branch that each machine is on.
fn current(store: &Store) -> Result<BTreeMap<&'static str, String>, String> {
    let of = |vm: &'static str| {
        let name = VmName::new(vm).map_err(|error| tell(&error))?;
        Ok((vm, store.branch_for_next(&name).to_string()))
    };
    VMS.into_iter().map(of).collect()
}

/// Everything that the store lists, by its number.
fn listed(store: &Store) -> Result<BTreeMap<Key, SnapshotRecord>, String> {
    let mut found = BTreeMap::new();
    for listing in [store.list(None), store.trash()] {
        let listing = listing.map_err(|error| format!("list: {}", tell(&error)))?;
        if let Some(damaged) = listing.damaged.first() {
            return Err(format!("{} is damaged: {}", damaged.id, damaged.problem));
        }
        for record in listing.snapshots {
            let key = number(&record).ok_or_else(|| format!("{} has no name", record.id))?;
            if found.insert(key, record).is_some() {
                return Err(format!("{key} is there twice"));
            }
        }
    }
    Ok(found)
}

/// The number of a snapshot.
pub(super) fn number(record: &SnapshotRecord) -> Option<Key> {
    model::key(record.metadata.name.as_ref()?.as_str())
}

/// Compares all that is known of a snapshot without reading its memory.
fn same(kept: &Kept, record: &SnapshotRecord, ids: &Ids) -> Result<(), String> {
    let is_live = record.location == snapshot_store::Location::Live;
    let parent = kept.parent.and_then(|key| ids.get(&key));
    let found = record.parent.map(|parent| parent.id);
    let description = record.metadata.description.as_str();
    let differences = [
        ("place", is_live == kept.is_live),
        ("machine", record.vm.as_str() == kept.vm),
        ("branch", record.branch.as_str() == kept.branch),
        ("parent", found.as_ref() == parent),
        ("protection", record.metadata.protected == kept.is_protected),
        ("description", description == kept.description),
    ];
    let different = differences.into_iter().find(|(_, same)| !same);
    different.map_or(Ok(()), |(what, _)| Err(format!("it has another {what}")))
}

/// Compares memory and machine state.
pub(super) fn bytes(store: &Store, id: SnapshotId, kept: &Kept) -> Result<(), String> {
    read(store, id, kept)
        .map_err(|error| tell(&error))?
        .map_err(str::to_owned)
}

/// Reads memory and machine state. The outer error is the store's, the inner one says that bytes are
/// wrong.
pub(super) fn read(
    store: &Store,
    id: SnapshotId,
    kept: &Kept,
) -> Result<Result<(), &'static str>, snapshot_store::StoreError> {
    let stored = store.image(id)?;
    if !is_image(&stored, &kept.image)? {
        return Ok(Err("its memory is not what was captured"));
    }
    let mut offers = store.state(id)?;
    let section = offers.take_payload(SectionKind::CALLER, 0);
    if section.map(|section| section.bytes) != Some(model::state(kept.state)) {
        return Ok(Err("its machine state is not what was captured"));
    }
    Ok(Ok(()))
}

/// Whether an open image holds these bytes.
pub(super) fn is_image(
    stored: &StoredImage,
    expected: &[u8],
) -> Result<bool, snapshot_memory::ImageError> {
    let image = stored.image();
    let mut found = vec![0; expected.len()];
    let pages = PageRange::new(0, image.layout().page_count());
    image.read_pages(pages, &mut found)?;
    Ok(found == expected)
}
