//! Snapshots taken, found, deleted and brought back.

use super::rig::{
    self, image, kind, named, options, path, reopen, restored, store, take, verify, vm,
};
use crate::{ErrorKind, Location, NewSnapshot, ParentLink, Selection, Store};
use snapshot_format::{Digest, SnapshotId, SnapshotRef};
use snapshot_memory::backend::{Backend, Fault, FaultBackend, LockMode};
use std::sync::Arc;
use std::time::Duration;

const A: [u8; 8] = [1, 0, 3, 0, 5, 6, 7, 8];
const B: [u8; 8] = [1, 9, 0, 0, 5, 6, 7, 8];
const C: [u8; 8] = [2, 9, 0, 4, 5, 6, 7, 8];

// spec: STO-06
#[test]
fn numbers_grow_and_a_deleted_one_is_never_given_again() {
    let (tree, store) = store();
    let first = take(&store, named("web", "a"), &image(&A)).unwrap();
    let second = take(&store, named("web", "b").parent(Some(first)), &image(&B)).unwrap();
    let other = take(&store, named("db", "a"), &image(&B)).unwrap();
    let seq = |store: &Store, of: SnapshotRef| store.snapshot(of.id).unwrap().seq;
    assert_eq!((seq(&store, first), seq(&store, second)), (1, 2));
    assert_eq!(seq(&store, other), 1);
    store
        .delete(&store.plan_delete(second.id).unwrap())
        .unwrap();
    // Also without the file that remembers it.
    tree.remove_file(&path("vms/web.json")).unwrap();
    let third = take(&reopen(&tree), named("web", "c"), &image(&C)).unwrap();
    assert_eq!(seq(&store, third), 3);
    let latest = store.resolve(&"web@latest".parse().unwrap()).unwrap();
    assert_eq!(latest, third.id);
}

// spec: STO-05
#[test]
fn references_find_one_snapshot_or_say_which_they_could_mean() {
    let (_, store) = store();
    let one = take(&store, named("web", "one"), &image(&A)).unwrap();
    let two = take(&store, named("web", "two"), &image(&A)).unwrap();
    let resolve = |text: &str| store.resolve(&text.parse().unwrap());
    let text = one.id.to_string();
    assert_eq!(resolve(&text).unwrap(), one.id);
    assert_eq!(resolve(&text[text.len() - 12..]).unwrap(), one.id);
    assert_eq!(resolve("web/ONE").unwrap(), one.id);
    assert_eq!(resolve("web@latest").unwrap(), two.id);
    assert_eq!(kind(resolve("-")), Some(ErrorKind::NotFound));
    // Ids begin with the time.
    let error = resolve(&text[..4]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert!(error.to_string().contains(&two.id.to_string()), "{error}");
    for missing in ["web/three", "db@latest", "ffffffff"] {
        assert_eq!(kind(resolve(missing)), Some(ErrorKind::NotFound));
    }
}

// spec: STO-03
// spec: STO-07
#[test]
fn names_are_unique_in_a_machine_whatever_their_case() {
    let (_, store) = store();
    let first = take(&store, named("web", "base"), &image(&A)).unwrap();
    let again = take(&store, named("web", "BASE"), &image(&A));
    assert_eq!(kind(again), Some(ErrorKind::Exists));
    let respelled = take(&store, named("Web", "next"), &image(&A));
    assert_eq!(kind(respelled), Some(ErrorKind::Exists));
    take(&store, named("db", "base"), &image(&A)).unwrap();
    // Two that were staged before either was published.
    let one = rig::staged(&store, named("web", "twin"), &image(&A)).unwrap();
    let two = rig::staged(&store, named("web", "twin"), &image(&A)).unwrap();
    one.seal().unwrap().publish().unwrap();
    assert_eq!(kind(two.seal()), Some(ErrorKind::Exists));
    assert_eq!(store.list(Some(&vm("web"))).unwrap().snapshots.len(), 2);
    // A name that is free again while its owner is in the trash.
    store.delete(&store.plan_delete(first.id).unwrap()).unwrap();
    let heir = take(&store, named("web", "base"), &image(&B)).unwrap();
    assert_eq!(kind(store.undelete(first.id)), Some(ErrorKind::Exists));
    let rename = store.change_metadata(heir.id, |metadata| metadata.name = None);
    assert_eq!(rename.unwrap().name, None);
    store.undelete(first.id).unwrap();
}

// spec: STO-13
#[test]
fn a_diff_needs_the_parent_that_it_names() {
    let (_, store) = store();
    let base = take(&store, named("web", "base"), &image(&A)).unwrap();
    let changed = SnapshotRef {
        digest: Digest([7; 32]),
        ..base
    };
    let missing = SnapshotRef {
        id: SnapshotId([7; 16]),
        ..base
    };
    for parent in [changed, missing] {
        let stage = store.sink(named("web", "x").parent(Some(parent))).stage();
        assert_eq!(kind(stage), Some(ErrorKind::Incompatible));
    }
    // Pages that are relative to a snapshot which is not the parent.
    let other = take(&store, named("web", "other"), &image(&B)).unwrap();
    let mut stage = store
        .sink(named("web", "x").parent(Some(other)))
        .stage()
        .unwrap();
    let guest = rig::Guest::new(&image(&C));
    let dirty = snapshot_memory::DirtyBitmap::all_set(rig::PAGES);
    let pages = snapshot_memory::Pages::Since {
        base,
        dirty: &dirty,
    };
    let written = stage.memory(&guest, pages, snapshot_memory::Stability::Paused);
    assert_eq!(kind(written), Some(ErrorKind::Incompatible));
    drop(stage);
    assert_eq!(store.list(None).unwrap().snapshots.len(), 2);
}

// spec: STO-19
// spec: STO-21
// spec: STO-22
#[test]
fn children_of_a_deleted_snapshot_restore_and_it_comes_back() {
    let (tree, store) = store();
    let a = take(&store, named("web", "a"), &image(&A)).unwrap();
    let b = take(&store, named("web", "b").parent(Some(a)), &image(&B)).unwrap();
    let c = take(&store, named("web", "c").parent(Some(b)), &image(&C)).unwrap();
    let plan = store.plan_delete(b.id).unwrap();
    assert_eq!((plan.children, plan.needed_by), (vec![c.id], vec![c.id]));
    store.delete(&store.plan_delete(b.id).unwrap()).unwrap();
    let store = reopen(&tree);
    assert_eq!(kind(store.snapshot(b.id)), Some(ErrorKind::NotFound));
    assert_eq!(restored(&store, c).unwrap(), image(&C));
    let d = take(&store, named("web", "d").parent(Some(c)), &image(&A)).unwrap();
    assert_eq!(restored(&store, d).unwrap(), image(&A));
    assert!(verify(&store, Selection::All).ok);
    let tree_of_c: Vec<_> = store.tree(None).unwrap();
    let link = tree_of_c.iter().find(|entry| entry.record.id == c.id);
    assert_eq!(link.unwrap().parent, ParentLink::Elsewhere);
    let usage = store.usage().unwrap();
    assert!(usage.trash_needed_bytes > 0 && usage.trash_needed_bytes == usage.trash_bytes);
    store.undelete(b.id).unwrap();
    assert_eq!(restored(&store, b).unwrap(), image(&B));
    // Without any trace of its parent, a full snapshot is whole.
    let full = store.snapshot(a.id).unwrap();
    assert_eq!(full.location, Location::Live);
}

// spec: STO-21
#[test]
fn what_is_protected_or_in_use_is_not_deleted() {
    let (tree, store) = store();
    let a = take(&store, named("web", "a"), &image(&A)).unwrap();
    let b = take(&store, named("web", "b").parent(Some(a)), &image(&B)).unwrap();
    let delete = |id| store.delete(&store.plan_delete(id)?);
    // A reader of the child needs the parent too.
    let reader = store.image(b.id).unwrap();
    assert_eq!(kind(delete(a.id)), Some(ErrorKind::Refused));
    drop(reader);
    let writer = store
        .sink(named("web", "c").parent(Some(b)))
        .stage()
        .unwrap();
    assert_eq!(kind(delete(a.id)), Some(ErrorKind::Refused));
    drop(writer);
    store.change_metadata(a.id, |m| m.protected = true).unwrap();
    assert!(store.plan_delete(a.id).unwrap().refusal.is_some());
    assert_eq!(kind(delete(a.id)), Some(ErrorKind::Refused));
    let file = path(&format!("snapshots/{}/snapshot.json", b.id));
    tree.tamper(&file, |bytes| bytes[30] ^= 1).unwrap();
    assert_eq!(kind(delete(b.id)), Some(ErrorKind::Refused));
    store
        .change_metadata(a.id, |m| m.protected = false)
        .unwrap();
    delete(a.id).unwrap();
}

// spec: STO-11
#[test]
fn a_stage_is_locked_and_goes_with_its_lock() {
    let (tree, store) = store();
    let stage = store.sink(named("web", "a")).stage().unwrap();
    let lock = path(&format!("locks/{}", stage.id()));
    let held = tree.lock(&lock, LockMode::Shared, Duration::ZERO);
    assert_eq!(held.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    // A second store on the same tree cleans up around it.
    reopen(&tree);
    let hidden = path(&format!("snapshots/.stage-{}", stage.id()));
    tree.metadata(&hidden).unwrap();
    assert!(store.list(None).unwrap().snapshots.is_empty());
    drop(stage);
    assert!(tree.metadata(&hidden).is_err() && tree.metadata(&lock).is_err());
}

// spec: STO-14
#[test]
fn a_data_file_that_vanished_before_the_commit_stops_it() {
    let (tree, store) = store();
    let a = take(&store, named("web", "a"), &image(&A)).unwrap();
    let stage = rig::staged(&store, named("web", "b").parent(Some(a)), &image(&B)).unwrap();
    let sealed = stage.seal().unwrap();
    let data = path(&format!("snapshots/{}/memory.img", a.id));
    tree.remove_file(&data).unwrap();
    assert_eq!(kind(sealed.publish()), Some(ErrorKind::Corrupt));
    assert_eq!(store.list(None).unwrap().snapshots.len(), 1);
}

// spec: STO-15
#[test]
fn after_the_rename_only_durability_can_fail() {
    let (tree, store) = store();
    take(&store, named("web", "a"), &image(&A)).unwrap();
    let calls = {
        let whole = FaultBackend::new(&tree.snapshot());
        let store = Store::open(Arc::new(whole.clone()), &options()).unwrap();
        take(&store, named("web", "b"), &image(&B)).unwrap();
        whole.calls()
    };
    let rename = calls
        .iter()
        .position(|call| call.operation == "rename")
        .unwrap();
    for number in rename + 2..=calls.len() {
        let backend = FaultBackend::new(&tree.snapshot());
        backend.fail_at(number, Fault::Errno(5));
        let store = Store::open(Arc::new(backend.clone()), &options()).unwrap();
        let result = kind(take(&store, named("web", "b"), &image(&B)));
        let is_first_sync = number == rename + 2;
        let expected = is_first_sync.then_some(ErrorKind::DurabilityUncertain);
        assert_eq!(result, expected, "call {number}");
        assert_eq!(store.list(None).unwrap().snapshots.len(), 2);
    }
}

// spec: STO-18
#[test]
fn a_read_only_store_restores_without_a_trace() {
    let (tree, store) = store();
    let a = take(&store, named("web", "a"), &image(&A)).unwrap();
    let b = take(&store, named("web", "b").parent(Some(a)), &image(&B)).unwrap();
    tree.remove_file(&path(&format!("locks/{}", a.id))).unwrap();
    let counted = FaultBackend::new(&tree);
    let options = options().access(crate::Access::ReadOnly);
    let reader = Store::open(Arc::new(counted.clone()), &options).unwrap();
    assert_eq!(restored(&reader, b).unwrap(), image(&B));
    assert!(verify(&reader, Selection::All).ok);
    assert_eq!(reader.state(b.id).unwrap().remaining().count(), 1);
    reader.tree(None).unwrap();
    reader.usage().unwrap();
    reader.detail(b.id).unwrap();
    assert_eq!(
        kind(take(&reader, named("web", "c"), &image(&A))),
        Some(ErrorKind::Failed)
    );
    assert_eq!(kind(reader.undelete(a.id)), Some(ErrorKind::Failed));
    assert_eq!(counted.call_count(), 0);
}

#[test]
fn a_snapshot_keeps_what_it_was_given() {
    let (_, store) = store();
    let new = NewSnapshot::of(vm("web")).config(b"cpus=2".to_vec());
    let a = take(&store, new, &image(&A)).unwrap();
    let manifest = store.manifest(a.id).unwrap();
    assert_eq!(manifest.vm_config, b"cpus=2");
    assert_eq!(manifest.digest(), a.digest);
    let mut state = store.state(a.id).unwrap();
    let device = state.take_payload(snapshot_format::SectionKind::CALLER, 0);
    assert_eq!(device.unwrap().bytes, [1, 2, 3]);
    state.finish().unwrap();
}

#[test]
fn a_tree_shows_branches_below_what_they_were_taken_from() {
    let (_, store) = store();
    let a = take(&store, named("web", "a"), &image(&A)).unwrap();
    let b = take(&store, named("web", "b").parent(Some(a)), &image(&B)).unwrap();
    let c = take(&store, named("web", "c").parent(Some(b)), &image(&C)).unwrap();
    let side = take(&store, named("web", "side").parent(Some(a)), &image(&C)).unwrap();
    let clone = take(&store, named("db", "clone").parent(Some(b)), &image(&A)).unwrap();
    let shown = |vm: Option<&str>| -> Vec<_> {
        let entries = store.tree(vm.map(rig::vm).as_ref()).unwrap();
        let lines = entries.into_iter();
        lines
            .map(|entry| (entry.record.id, entry.depth, entry.parent))
            .collect()
    };
    assert_eq!(
        shown(Some("web")),
        [
            (a.id, 0, ParentLink::None),
            (b.id, 1, ParentLink::Shown),
            (c.id, 2, ParentLink::Shown),
            (side.id, 1, ParentLink::Shown),
        ]
    );
    assert_eq!(shown(Some("db")), [(clone.id, 0, ParentLink::Elsewhere)]);
    assert!(shown(None).contains(&(clone.id, 2, ParentLink::Shown)));
}
