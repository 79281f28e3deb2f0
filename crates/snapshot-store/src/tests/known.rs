//! What is remembered of manifests while a store is open, and what is looked up each time.

use super::rig::{image, kind, named, path, reopen, store, take, vm};
use crate::{ErrorKind, NewSnapshot, Store};
use snapshot_format::{BranchName, SnapshotName, SnapshotRef};
use snapshot_memory::backend::{Backend, MemBackend};

fn publish(store: &Store, new: NewSnapshot) -> SnapshotRef {
    take(store, new, &image(&[1; 8])).unwrap()
}

fn seq(store: &Store, of: SnapshotRef) -> u64 {
    store.snapshot(of.id).unwrap().seq
}

/// What is derived is gone: numbers come from manifests alone.
fn forget(tree: &MemBackend) {
    tree.remove_file(&path("vms/web.json")).unwrap();
}

// spec: STO-06
// spec: STO-32
#[test]
fn a_number_is_above_those_of_others_who_publish_at_the_same_time() {
    let (tree, store) = store();
    let other = reopen(&tree);
    let mut last = 0;
    for _ in 0..4 {
        for store in [&store, &other] {
            let taken = publish(store, NewSnapshot::of(vm("web")));
            assert_eq!(seq(store, taken), last + 1);
            last += 1;
            forget(&tree);
        }
    }
    // One that came back from the trash, and one that is there.
    let newest = publish(&other, NewSnapshot::of(vm("web")));
    other
        .delete(&other.plan_delete(newest.id).unwrap())
        .unwrap();
    forget(&tree);
    assert_eq!(
        seq(&store, publish(&store, NewSnapshot::of(vm("web")))),
        last + 2
    );
}

// spec: STO-32
#[test]
fn a_manifest_that_was_read_is_not_read_again() {
    let (tree, store) = store();
    publish(&store, NewSnapshot::of(vm("web")));
    let newest = publish(&store, NewSnapshot::of(vm("web")));
    let file = path(&format!("snapshots/{}/manifest.vms", newest.id));
    tree.tamper(&file, |bytes| bytes[140] ^= 1).unwrap();
    forget(&tree);
    // Its number is not given again, though nothing tells of it any more.
    assert_eq!(seq(&store, publish(&store, NewSnapshot::of(vm("web")))), 3);
}

// spec: STO-03
// spec: STO-07
// spec: STO-32
#[test]
fn names_and_spellings_that_others_gave_are_seen() {
    let (tree, store) = store();
    let first = publish(&store, named("web", "a"));
    let other = reopen(&tree);
    let name = |name| Some(SnapshotName::new(name).unwrap());
    other
        .change_metadata(first.id, |metadata| metadata.name = name("b"))
        .unwrap();
    let refused = take(&store, named("web", "b"), &image(&[1; 8]));
    assert_eq!(kind(refused), Some(ErrorKind::Exists));
    publish(&store, named("web", "a"));
    publish(&other, named("Db", "a"));
    let refused = take(&store, named("db", "c"), &image(&[1; 8]));
    assert_eq!(kind(refused), Some(ErrorKind::Exists));
    // Of what is deleted the name is free.
    store.delete(&store.plan_delete(first.id).unwrap()).unwrap();
    publish(&other, named("web", "b"));
    assert_eq!(kind(store.undelete(first.id)), Some(ErrorKind::Exists));
}

// spec: STO-32
#[test]
fn a_head_is_the_newest_of_its_branch_that_can_be_read() {
    let (tree, store) = store();
    let older = publish(&store, NewSnapshot::of(vm("web")));
    let newest = publish(&store, NewSnapshot::of(vm("web")));
    let file = path(&format!("snapshots/{}/manifest.vms", newest.id));
    tree.tamper(&file, |bytes| bytes[140] ^= 1).unwrap();
    let fix = BranchName::new("fix").unwrap();
    let on_fix = publish(&store, NewSnapshot::of(vm("web")).branch(fix));
    // It is not remembered as a head any more, so that it does not stand for the latest one.
    let file = crate::vm::read(&store, &vm("web")).unwrap().unwrap();
    let heads: Vec<_> = file.heads.into_values().collect();
    assert_eq!(heads, [on_fix.id, older.id]);
}
