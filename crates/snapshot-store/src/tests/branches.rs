//! Branches: made anywhere, switched to, removed.

use super::rig::{A, image, kind, named, one, path, read, reopen, store, take, vm};
use crate::{ErrorKind, Forest, Listing, NewSnapshot, Refusal, Store, StoreError};
use snapshot_format::{BranchName, SnapshotId, SnapshotRef};
use snapshot_memory::backend::Backend;

const B: [u8; 8] = [2, 0, 3, 0, 5, 6, 7, 8];

fn branch(name: &str) -> BranchName {
    BranchName::new(name).unwrap()
}

fn on(name: &str, parent: SnapshotRef) -> NewSnapshot {
    NewSnapshot::of(vm("web"))
        .branch(branch(name))
        .parent(Some(parent))
}

/// Name, head, start, number of snapshots, whether it is current.
type Told = (String, Option<SnapshotId>, Option<SnapshotId>, u64, bool);

fn told(store: &Store) -> Vec<Told> {
    let branches = store.branches(&vm("web")).unwrap().into_iter();
    let told = branches.map(|b| {
        (
            b.name.to_string(),
            b.head,
            b.start,
            b.snapshots,
            b.is_current,
        )
    });
    told.collect()
}

// spec: TRE-04
// spec: TRE-05
#[test]
fn a_branch_starts_anywhere_and_its_head_is_its_newest_snapshot() {
    let (_, store, a) = one();
    let other = take(&store, named("db", "base"), &image(&A)).unwrap();
    let web = vm("web");
    store.create_branch(&web, &branch("fix"), a.id).unwrap();
    let clone = store
        .create_branch(&web, &branch("clone"), other.id)
        .unwrap();
    assert_eq!((clone.head, clone.snapshots), (Some(other.id), 0));
    let again = store.create_branch(&web, &branch("FIX"), a.id);
    assert_eq!(kind(again), Some(ErrorKind::Exists));
    let again = store.create_branch(&web, &branch("main"), a.id);
    assert_eq!(kind(again), Some(ErrorKind::Exists));
    let nowhere = store.create_branch(&web, &branch("x"), SnapshotId([7; 16]));
    assert_eq!(kind(nowhere), Some(ErrorKind::NotFound));

    let first = take(&store, on("fix", a), &image(&B)).unwrap();
    let second = take(&store, on("fix", first), &image(&A)).unwrap();
    let fix = |head, count| ("fix".to_owned(), head, Some(a.id), count, false);
    let rest = |told: &[Told]| (told[0].0.clone(), told[2].clone());
    let main = ("main".to_owned(), Some(a.id), None, 1, false);
    assert_eq!(told(&store)[1], fix(Some(second.id), 2));
    assert_eq!(rest(&told(&store)), ("clone".to_owned(), main));
    for (gone, head, count) in [(second, first.id, 1), (first, a.id, 0)] {
        store.delete(&store.plan_delete(gone.id).unwrap()).unwrap();
        assert_eq!(told(&store)[1], fix(Some(head), count));
    }
    store.delete(&store.plan_delete(a.id).unwrap()).unwrap();
    assert_eq!(told(&store)[1], fix(None, 0));
    assert_eq!(
        kind(store.branch(&vm("nobody"), &branch("main"))),
        Some(ErrorKind::NotFound)
    );
}

// spec: TRE-06
// spec: TRE-07
#[test]
fn the_head_of_the_current_branch_stays_until_the_machine_leaves_it() {
    let (_, store, a) = one();
    let web = vm("web");
    assert_eq!(store.branch_for_next(&web), BranchName::main());
    store.create_branch(&web, &branch("fix"), a.id).unwrap();
    let missing = store.switch(&web, Some(&branch("nobody")));
    assert_eq!(kind(missing), Some(ErrorKind::NotFound));
    let switched = store.switch(&web, Some(&branch("Fix"))).unwrap().unwrap();
    assert!(switched.is_current && switched.name == branch("fix"));
    assert_eq!(store.branch_for_next(&web), branch("fix"));

    // Its head is the start, until there is a snapshot on it.
    let plan = store.plan_delete(a.id).unwrap();
    let current = Refusal::Current {
        branch: branch("fix"),
    };
    assert_eq!(plan.refusal, Some(current.clone()));
    assert!(matches!(
        store.delete(&plan).unwrap_err(),
        StoreError::Refused { reason, .. } if reason == current
    ));
    let head = take(&store, on("fix", a), &image(&B)).unwrap();
    let plan = store.plan_delete(head.id).unwrap();
    assert_eq!(kind(store.delete(&plan)), Some(ErrorKind::Refused));
    store.delete(&store.plan_delete(a.id).unwrap()).unwrap();
    assert_eq!(store.switch(&web, None).unwrap(), None);
    store.delete(&plan).unwrap();
}

// spec: TRE-08
#[test]
fn only_a_branch_that_holds_nothing_is_removed() {
    let (_, store, a) = one();
    let web = vm("web");
    let fix = branch("fix");
    store.create_branch(&web, &fix, a.id).unwrap();
    store.switch(&web, Some(&fix)).unwrap();
    assert_eq!(
        kind(store.remove_branch(&web, &fix)),
        Some(ErrorKind::Refused)
    );
    store.switch(&web, Some(&BranchName::main())).unwrap();
    let head = take(&store, on("fix", a), &image(&B)).unwrap();
    assert_eq!(
        kind(store.remove_branch(&web, &fix)),
        Some(ErrorKind::Refused)
    );
    store.delete(&store.plan_delete(head.id).unwrap()).unwrap();
    assert_eq!(store.remove_branch(&web, &fix).unwrap().start, Some(a.id));
    assert_eq!(
        kind(store.remove_branch(&web, &fix)),
        Some(ErrorKind::NotFound)
    );
    assert_eq!(told(&store).len(), 1);
    store.snapshot(a.id).unwrap();
}

// spec: TRE-09
#[test]
fn starts_and_the_current_branch_outlive_changes_and_end_with_the_file() {
    let (tree, store, a) = one();
    let web = vm("web");
    store.create_branch(&web, &branch("fix"), a.id).unwrap();
    store.create_branch(&web, &branch("idle"), a.id).unwrap();
    store.switch(&web, Some(&branch("fix"))).unwrap();
    let head = take(&store, on("fix", a), &image(&B)).unwrap();
    let names = |store: &Store| told(store).into_iter().map(|b| b.0).collect::<Vec<_>>();
    let store = reopen(&tree);
    assert_eq!(names(&store), ["fix", "idle", "main"]);
    assert_eq!(store.branch_for_next(&web), branch("fix"));
    // Without it no snapshot is lost, and no branch that has one.
    tree.tamper(&path("vms/web.json"), |bytes| bytes.truncate(20))
        .unwrap();
    assert_eq!(names(&store), ["fix", "main"]);
    assert_eq!(store.branch_for_next(&web), BranchName::main());
    let next = take(&store, on("fix", head), &image(&A)).unwrap();
    assert_eq!(
        store.branch(&web, &branch("fix")).unwrap().head,
        Some(next.id)
    );
    tree.remove_file(&path("vms/web.json")).unwrap();
    assert_eq!(names(&store), ["fix", "main"]);
}

// spec: TRE-17
#[test]
fn a_file_of_a_later_version_is_written_over_by_nobody() {
    let (tree, store, a) = one();
    let web = vm("web");
    let fix = branch("fix");
    store.create_branch(&web, &fix, a.id).unwrap();
    let gone = take(&store, on("main", a), &image(&B)).unwrap();
    store.delete(&store.plan_delete(gone.id).unwrap()).unwrap();
    let staged = store.sink(on("main", a)).stage().unwrap();

    let later = serde_json::json!({"version": 3, "vm": "web", "lines": {"fix": 7}});
    let later = crate::checked_json::encode(&later).unwrap();
    let written = later.clone();
    tree.tamper(&path("vms/web.json"), move |bytes| *bytes = written)
        .unwrap();
    let refused = [
        ("stage", kind(store.sink(on("main", a)).stage())),
        ("seal", kind(staged.seal())),
        ("plan", kind(store.plan_delete(a.id))),
        (
            "delete",
            kind(store.delete_unless(a.id, Some(&web), &|| Ok(None))),
        ),
        ("undelete", kind(store.undelete(gone.id))),
        (
            "create",
            kind(store.create_branch(&web, &branch("x"), a.id)),
        ),
        ("remove", kind(store.remove_branch(&web, &fix))),
        ("switch", kind(store.switch(&web, None))),
        ("branches", kind(store.branches(&web))),
        ("remember", kind(crate::vm::remember_seq(&store, &web, 9))),
    ];
    for (what, refused) in refused {
        assert_eq!(refused, Some(ErrorKind::TooNew), "{what}");
    }
    // Nothing of it happened; other machines, and whoever reads, know nothing of it.
    assert_eq!(read(&tree, &path("vms/web.json")), later);
    let ids = |listing: Listing| listing.snapshots.iter().map(|r| r.id).collect::<Vec<_>>();
    assert_eq!(ids(store.list(None).unwrap()), [a.id]);
    assert_eq!(ids(store.trash().unwrap()), [gone.id]);
    let latest = store.resolve(&"web@latest".parse().unwrap());
    assert_eq!(latest.unwrap(), a.id);
    take(&store, named("db", "base"), &image(&A)).unwrap();
    reopen(&tree);
    assert_eq!(read(&tree, &path("vms/web.json")), later);
    // Once it is out of the way all of it goes on.
    tree.remove_file(&path("vms/web.json")).unwrap();
    store.undelete(gone.id).unwrap();
}

// spec: TRE-16
#[test]
fn a_name_is_filled_in_with_the_number_that_is_given() {
    let (_, store) = store();
    let new = || {
        let new = NewSnapshot::of(vm("web"));
        new.name_template("{vm}-{branch}-{seq}".parse().unwrap())
    };
    for number in 1..=2 {
        let taken = take(&store, new(), &image(&A)).unwrap();
        let name = store.snapshot(taken.id).unwrap().metadata.name.unwrap();
        assert_eq!(name.as_str(), format!("web-main-000{number}"));
    }
    // A constant one is taken the second time.
    let constant = || NewSnapshot::of(vm("web")).name_template("only".parse().unwrap());
    take(&store, constant(), &image(&A)).unwrap();
    assert_eq!(
        kind(take(&store, constant(), &image(&A))),
        Some(ErrorKind::Exists)
    );
    // Refused before memory is written.
    let long = format!("{}{{seq}}", "a".repeat(120)).parse().unwrap();
    let stage = store
        .sink(NewSnapshot::of(vm("web")).name_template(long))
        .stage();
    assert_eq!(kind(stage), Some(ErrorKind::Usage));
}

// spec: TRE-01
#[test]
fn a_link_counts_where_the_parent_has_the_digest_that_is_named() {
    let (_, store, a) = one();
    take(&store, named("web", "b").parent(Some(a)), &image(&A)).unwrap();
    let mut records = store.list(None).unwrap().snapshots;
    let [first, second] = [records[0].id, records[1].id];
    assert_eq!(Forest::of(&records).parent(second), Some(first));
    // The same id, made anew with another content.
    records[0].digest.0[0] ^= 1;
    let forest = Forest::of(&records);
    assert_eq!(
        (forest.parent(second), forest.children(first)),
        (None, &[][..])
    );
    assert_eq!(forest.roots(), [first, second]);
}
