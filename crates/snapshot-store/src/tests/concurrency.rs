//! Several writers, readers and deleters of one store.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::rig::{self, image, kind, named, options, path, restored, store, take, verify};
use crate::{ErrorKind, OpenOptions, Refusal, Selection, Store, StoreError};
use snapshot_format::DataLayout;
use snapshot_memory::RelayoutOptions;
use snapshot_memory::backend::{Backend, FsBackend, LockMode, MemBackend};

const ROUNDS: u8 = 6;

fn pages(fill: u8) -> Vec<u8> {
    image(&[fill; 8])
}

/// Two writers, each with a store of its own on the same tree, take snapshots of one machine.
fn two_writers(open: impl Fn() -> Arc<dyn Backend> + Sync) {
    let options = OpenOptions::default().lock_wait(Duration::from_secs(30));
    let write = |writer: u8| {
        let store = Store::open_or_create(open(), &options).unwrap();
        let mut parent = None;
        for round in 0..ROUNDS {
            let new = named("web", &format!("w{writer}-{round}")).parent(parent);
            let fill = 1 + writer * ROUNDS + round;
            parent = Some(take(&store, new, &pages(fill)).unwrap());
        }
    };
    std::thread::scope(|scope| {
        for writer in 0..2 {
            scope.spawn(move || write(writer));
        }
    });
    let store = Store::open(open(), &options).unwrap();
    let listing = store.list(None).unwrap();
    assert!(listing.damaged.is_empty());
    let seqs: Vec<u64> = listing.snapshots.iter().map(|record| record.seq).collect();
    assert_eq!(seqs, (1..=2 * u64::from(ROUNDS)).collect::<Vec<_>>());
    for record in &listing.snapshots {
        let name = record.metadata.name.as_ref().unwrap().to_string();
        let (writer, round) = name[1..].split_once('-').unwrap();
        let (writer, round): (u8, u8) = (writer.parse().unwrap(), round.parse().unwrap());
        let expected = pages(1 + writer * ROUNDS + round);
        assert_eq!(restored(&store, record.reference()).unwrap(), expected);
    }
    assert!(verify(&store, Selection::All).ok);
}

// spec: STO-06
#[test]
fn two_writers_in_memory_give_every_number_once() {
    let tree = MemBackend::new();
    two_writers(|| Arc::new(tree.clone()));
}

// spec: STO-06
#[test]
fn two_writers_on_disk_give_every_number_once() {
    let dir = tempfile::tempdir().unwrap();
    two_writers(|| Arc::new(FsBackend::open(dir.path()).unwrap()));
}

// spec: STO-16
#[test]
fn a_lease_is_one_lock_and_covers_all_that_is_needed() {
    let dir = tempfile::tempdir().unwrap();
    let backend: Arc<dyn Backend> = Arc::new(FsBackend::open(dir.path()).unwrap());
    let store = Store::create(Arc::clone(&backend), &options()).unwrap();
    let a = take(&store, named("web", "a"), &pages(1)).unwrap();
    let b = take(&store, named("web", "b").parent(Some(a)), &pages(2)).unwrap();
    let c = take(&store, named("web", "c").parent(Some(b)), &pages(3)).unwrap();
    let delete = |id| store.plan_delete(id).and_then(|plan| store.delete(&plan));
    let lease = store.lease(c.id).unwrap();
    assert_eq!(lease.snapshot(), c.id);
    assert!(lease.descriptor().is_some());
    let refusal = |id| match delete(id).unwrap_err() {
        StoreError::Refused { reason, .. } => reason,
        other => unreachable!("{other}"),
    };
    let own = std::process::id();
    assert_eq!(refusal(c.id), Refusal::Leased { holders: vec![own] });
    let needed = Refusal::Needed {
        by: c.id,
        holders: vec![own],
    };
    for id in [a.id, b.id] {
        assert_eq!(store.plan_delete(id).unwrap().refusal, Some(needed.clone()));
        assert_eq!(refusal(id), needed);
    }
    // Another reader may come; who makes or deletes the snapshot itself is waited for.
    drop(store.image(c.id).unwrap());
    let lock = path(&format!("locks/{}", c.id));
    let alone = |wait| backend.lock(&lock, LockMode::Exclusive, wait);
    assert_eq!(
        alone(Duration::ZERO).unwrap_err().kind(),
        std::io::ErrorKind::WouldBlock
    );
    drop(lease);
    let held = alone(Duration::ZERO).unwrap();
    assert_eq!(kind(store.image(c.id)), Some(ErrorKind::Busy));
    drop(held);
    let lease = store.image(c.id).unwrap().into_parts().1;
    assert_eq!(refusal(a.id), needed);
    // It goes with any thread.
    std::thread::spawn(move || drop(lease)).join().unwrap();
    delete(a.id).unwrap();
    // What needs data of the trash can be leased as well.
    let lease = store.lease(c.id).unwrap();
    assert_eq!(refusal(b.id), needed);
    drop(lease);
    assert_eq!(restored(&store, c).unwrap(), pages(3));
}

// spec: STO-21
#[test]
fn a_lease_keeps_what_any_placement_of_its_snapshot_names() {
    let (tree, store) = store();
    let a = take(&store, named("web", "a"), &pages(1)).unwrap();
    let b = take(&store, named("web", "b").parent(Some(a)), &pages(2)).unwrap();
    let delete = || store.plan_delete(a.id).and_then(|plan| store.delete(&plan));
    // A placement that needs `a` no more, as consolidating will make: the one before does.
    let place = |n| path(&format!("snapshots/{}/place.{n}.vms", b.id));
    let lease = store.lease(b.id).unwrap();
    let first = rig::read(&tree, &place(1));
    tree.tamper(&place(1), |bytes| bytes[200] ^= 1).unwrap();
    // What cannot be read may name anything.
    assert_eq!(kind(delete()), Some(ErrorKind::Refused));
    tree.tamper(&place(1), |bytes| bytes.clone_from(&first))
        .unwrap();
    let packed = RelayoutOptions::of(DataLayout::Packed);
    store.relayout(b.id, &packed).unwrap();
    assert_eq!(kind(delete()), Some(ErrorKind::Refused));
    drop(lease);
    tree.tamper(&place(1), |bytes| bytes[200] ^= 1).unwrap();
    delete().unwrap();
}

/// A parent goes to the trash and back all the time, while its child is restored.
fn restore_under_way(open: impl Fn() -> Arc<dyn Backend> + Sync) {
    let options = OpenOptions::default().lock_wait(Duration::from_secs(30));
    let store = Store::open_or_create(open(), &options).unwrap();
    let a = take(&store, named("web", "a"), &image(&[1; 8])).unwrap();
    let changed = image(&[1, 1, 1, 1, 1, 1, 1, 2]);
    let b = take(&store, named("web", "b").parent(Some(a)), &changed).unwrap();
    let done = AtomicBool::new(false);
    let moved = std::thread::scope(|scope| {
        let mover = scope.spawn(|| {
            let store = Store::open(open(), &options).unwrap();
            let mut moved = 0;
            while !done.load(Ordering::Relaxed) {
                let deleted = store.plan_delete(a.id).and_then(|plan| store.delete(&plan));
                match deleted {
                    Ok(()) => {
                        store.undelete(a.id).unwrap();
                        moved += 1;
                    }
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Refused, "{error}"),
                }
            }
            moved
        });
        for _ in 0..100 {
            let result = restored(&store, b);
            if result.as_ref().ok() != Some(&changed) {
                done.store(true, Ordering::Relaxed);
            }
            assert_eq!(result.unwrap(), changed);
        }
        done.store(true, Ordering::Relaxed);
        mover.join().unwrap()
    });
    eprintln!("the parent was moved {moved} times");
    assert!(verify(&store, Selection::All).ok);
}

// spec: STO-17
#[test]
fn a_restore_finds_files_that_move_in_memory() {
    let tree = MemBackend::new();
    restore_under_way(|| Arc::new(tree.clone()));
}

// spec: STO-17
#[test]
fn a_restore_finds_files_that_move_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    restore_under_way(|| Arc::new(FsBackend::open(dir.path()).unwrap()));
}
