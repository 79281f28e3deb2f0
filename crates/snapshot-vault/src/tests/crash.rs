//! The power is cut at every call of the file system, with any part of what was not synced lost.

use std::sync::Arc;

use snapshot_memory::backend::{FaultBackend, MemBackend};

use crate::testing::{Guest, archive, domain_on, restored};
use crate::{CollectOptions, Domain, FolderObjects, ObjectId, VaultError};

fn open(backend: Arc<dyn snapshot_memory::backend::Backend>) -> Result<Domain, VaultError> {
    let name = crate::ObjectName::vault();
    let objects = FolderObjects::open(backend).map_err(VaultError::object_at("open", &name))?;
    Ok(domain_on(Arc::new(objects)))
}

fn all() -> CollectOptions {
    CollectOptions {
        copy_below_percent: 100,
        expire_trash: true,
        ..CollectOptions::default()
    }
}

/// Archives a changed guest, deletes the archive that there was, collects. Gives what was told as
/// done: the new archive, and whether the old one was deleted.
fn work(domain: &Domain, guest: &Guest, first: ObjectId) -> (Option<ObjectId>, bool) {
    let Ok(second) = archive(domain, 2, guest, Some((first, &[3]))) else {
        return (None, false);
    };
    let is_deleted = domain.delete_archive(first).is_ok();
    if is_deleted {
        drop(domain.collect(&all()));
    }
    (Some(second.id), is_deleted)
}

#[test]
fn what_was_told_as_done_is_there_after_a_crash_and_what_was_not_deleted_too() {
    let image = MemBackend::new();
    let guest = Guest::new(32, 1);
    let first = archive(&open(Arc::new(image.clone())).unwrap(), 1, &guest, None)
        .unwrap()
        .id;
    let before = guest.image();
    guest.write(3, 9);
    let counting = FaultBackend::new(&image);
    let (second, is_deleted) = work(&open(Arc::new(counting.clone())).unwrap(), &guest, first);
    assert!(second.is_some() && is_deleted);
    for cut in 1..=counting.call_count() {
        let backend = FaultBackend::new(&image);
        backend.cut_at(cut);
        let told = open(Arc::new(backend.clone())).ok();
        let told = told.map(|domain| work(&domain, &guest, first));
        let (second, is_deleted) = told.unwrap_or_default();
        for state in backend.crash_states() {
            let what = format!("cut {cut}, {}", state.what);
            let domain = open(Arc::new(state.image)).unwrap();
            let list = domain.archives().unwrap();
            assert!(list.damaged.is_empty(), "{what}: {list:?}");
            if let Some(second) = second {
                assert!(
                    restored(&domain, second).unwrap() == guest.image(),
                    "{what}"
                );
            }
            // Deleting may have happened although it was not told.
            let is_there = list
                .archives
                .iter()
                .any(|found| found.id == first && !found.is_deleted);
            let may_be_deleted = is_deleted || second.is_some();
            assert!(
                is_there || may_be_deleted,
                "{what}: the first archive is gone"
            );
            if is_there {
                assert!(restored(&domain, first).unwrap() == before, "{what}");
            }
            // Whoever comes next collects, and what counts is still there.
            domain.collect(&all()).unwrap();
            for found in domain.archives().unwrap().archives {
                assert!(restored(&domain, found.id).is_ok(), "{what}");
            }
        }
    }
}
