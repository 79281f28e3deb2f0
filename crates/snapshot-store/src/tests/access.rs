//! Who may read what is published, on a real file system.

use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use super::rig::{A, image, kind, named, one, options, path, restored, take, verify};
use crate::{ErrorKind, Location, ReadAccess, Selection, Store, VerifyOptions};
use snapshot_format::DataLayout;
use snapshot_memory::RelayoutOptions;
use snapshot_memory::backend::{Fault, FaultBackend, FsBackend};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// The modes of all files of a directory, by name.
fn modes(folder: &Path) -> Vec<(String, u32)> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let mut modes: Vec<_> = entries
        .map(|entry| {
            (
                entry.file_name().into_string().unwrap(),
                mode(&entry.path()),
            )
        })
        .collect();
    modes.sort();
    modes
}

// spec: ACC-01
// spec: ACC-02
// spec: ACC-05
#[test]
fn what_is_published_has_the_access_that_is_set() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let backend = FsBackend::create(&root).unwrap();
    let store = Store::create(Arc::new(backend), &options()).unwrap();
    let before = take(&store, named("web", "before"), &image(&A)).unwrap();
    assert_eq!(store.read_access(), ReadAccess::default());
    let group = fs::metadata(&root).unwrap().gid();
    let access = ReadAccess::new(None, Some(group), 0o440).unwrap();
    store.set_read_access(access, false).unwrap();
    assert_eq!(store.read_access(), access);
    let folder = |of: snapshot_format::SnapshotRef| root.join("snapshots").join(of.id.to_string());
    let after = take(
        &store,
        named("web", "after").parent(Some(before)),
        &image(&[9; 8]),
    )
    .unwrap();
    let check = |folder: &Path, file, own, directory| {
        assert_eq!(mode(folder), directory, "{}", folder.display());
        for (name, mode) in modes(folder) {
            let expected = if name == "snapshot.json" { own } else { file };
            assert_eq!(mode, expected, "{name}");
        }
    };
    check(&folder(before), 0o400, 0o400, 0o700);
    check(&folder(after), 0o440, 0o640, 0o750);
    assert_eq!(mode(&root.join("vms/web.json")), 0o640);
    assert_eq!(mode(&root.join("store.vms")), 0o640);
    for (name, expected) in [
        ("", 0o750),
        ("snapshots", 0o750),
        ("trash", 0o750),
        ("locks", 0o700),
    ] {
        assert_eq!(mode(&root.join(name)), expected, "{name}");
    }
    // What is replaced, and what comes later, has it too.
    store
        .change_metadata(after.id, |metadata| metadata.protected = false)
        .unwrap();
    store
        .relayout(after.id, &RelayoutOptions::of(DataLayout::Sparse))
        .unwrap();
    check(&folder(after), 0o440, 0o640, 0o750);
    store
        .delete(&store.plan_delete(before.id).unwrap())
        .unwrap();
    store.set_read_access(access, true).unwrap();
    check(
        &root.join("trash").join(before.id.to_string()),
        0o440,
        0o640,
        0o750,
    );
    store.set_read_access(ReadAccess::default(), true).unwrap();
    check(&folder(after), 0o400, 0o600, 0o700);
    assert!(verify(&store, Selection::All).ok);
}

// spec: ACC-02
// spec: ACC-05
// spec: RPR-13
#[test]
fn what_is_remembered_of_checks_and_what_is_repaired_has_the_access_that_is_set() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let backend = FsBackend::create(&root).unwrap();
    let store = Store::create(Arc::new(backend), &options()).unwrap();
    let a = take(&store, named("web", "a"), &image(&A)).unwrap();
    let check = |store: &Store| {
        let options = VerifyOptions::of(Selection::All);
        let report = store.verify_with(&options, &mut |_| ControlFlow::Continue(()));
        assert!(report.unwrap().ok);
    };
    let (folder, record) = (
        root.join("verified"),
        root.join(format!("verified/{}.json", a.id)),
    );
    let access = ReadAccess::new(None, None, 0o440).unwrap();
    // Set before the first check, and after it.
    store.set_read_access(access, true).unwrap();
    check(&store);
    assert_eq!((mode(&folder), mode(&record)), (0o750, 0o640));
    store.set_read_access(ReadAccess::default(), false).unwrap();
    assert_eq!((mode(&folder), mode(&record)), (0o700, 0o600));
    store.set_read_access(access, true).unwrap();
    assert_eq!((mode(&folder), mode(&record)), (0o750, 0o640));
    // A link is nobody's record: what it leads to keeps its access and its bytes.
    let outside = directory.path().join("outside");
    fs::write(&outside, b"mine").unwrap();
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o604)).unwrap();
    fs::remove_file(&record).unwrap();
    std::os::unix::fs::symlink(&outside, &record).unwrap();
    store.set_read_access(access, true).unwrap();
    assert_eq!(store.last_check(a.id), None);
    check(&store);
    assert!(store.last_check(a.id).is_some());
    assert_eq!((mode(&record), mode(&outside)), (0o640, 0o604));
    assert_eq!(fs::read(&outside).unwrap(), b"mine");
    // A data file and a manifest with a wrong bit each.
    for name in ["memory.img", "manifest.vms"] {
        let file = root.join(format!("snapshots/{}/{name}", a.id));
        let mut bytes = fs::read(&file).unwrap();
        bytes[135] ^= 1;
        fs::remove_file(&file).unwrap();
        fs::write(&file, bytes).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o400)).unwrap();
        let report = store.repair(a.id, None, &mut |_| ControlFlow::Continue(()));
        let report = report.unwrap();
        assert_eq!(report.outcome, crate::RepairOutcome::Mended, "{report:?}");
        assert_eq!(mode(&file), 0o440, "{name}");
    }
}

// spec: ACC-02
#[test]
fn what_cannot_have_its_access_is_not_published() {
    let (tree, store, _) = one();
    store
        .set_read_access(ReadAccess::new(None, None, 0o444).unwrap(), false)
        .unwrap();
    let run = |backend: &FaultBackend| {
        let store = Store::open(Arc::new(backend.clone()), &options())?;
        take(&store, named("web", "b"), &image(&A))
    };
    let whole = FaultBackend::new(&tree);
    run(&whole).unwrap();
    // The files are in memory, where setting access is a sync of its own: the second one of each.
    let mut tried = 0;
    let mut seen = std::collections::BTreeSet::new();
    for (number, call) in (1..).zip(whole.calls()) {
        let is_of_stage = call.path.contains("/.stage-") && call.operation == "sync";
        if !is_of_stage || seen.insert(call.path.clone()) {
            continue;
        }
        tried += 1;
        let backend = FaultBackend::new(&tree);
        backend.fail_at(number, Fault::Errno(1));
        run(&backend).unwrap_err();
        let store = super::rig::reopen(&backend.live());
        assert_eq!(store.list(None).unwrap().snapshots.len(), 1, "{call:?}");
    }
    assert!(tried >= 5, "{tried} files");
}

// spec: ACC-03
#[test]
fn damaged_settings_let_nobody_in() {
    let (tree, store, a) = one();
    store
        .set_read_access(ReadAccess::new(None, None, 0o444).unwrap(), false)
        .unwrap();
    tree.tamper(&path("access.json"), |bytes| bytes.truncate(30))
        .unwrap();
    assert_eq!(store.read_access(), ReadAccess::default());
    let b = take(&store, named("web", "b").parent(Some(a)), &image(&A)).unwrap();
    assert!(restored(&store, b).unwrap() == image(&A));
    // A backend without users has no owner to name.
    let access = ReadAccess::new(Some(0), None, 0o400).unwrap();
    assert_eq!(
        kind(store.set_read_access(access, false)),
        Some(ErrorKind::Usage)
    );
}

// spec: ACC-04
#[test]
fn files_of_the_owner_of_the_directory_are_the_stores() {
    if !is_root() {
        return snapshot_memory::skip::skip("root", "only root can give files away");
    }
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let backend = FsBackend::create(&root).unwrap();
    let store = Store::create(Arc::new(backend), &options()).unwrap();
    let a = take(&store, named("web", "a"), &image(&A)).unwrap();
    let chown = |path: &Path| std::os::unix::fs::chown(path, Some(12_345), None).unwrap();
    let manifest = path(&format!("snapshots/{}/manifest.vms", a.id));
    chown(&root.join(manifest.as_str()));
    let open = || Store::open(Arc::new(FsBackend::open(&root).unwrap()), &options()).unwrap();
    assert_eq!(open().list(None).unwrap().damaged.len(), 1);
    chown(&root);
    let store = open();
    assert!(restored(&store, a).unwrap() == image(&A));
    let access = ReadAccess::new(Some(12_345), None, 0o400).unwrap();
    store.set_read_access(access, true).unwrap();
    let b = take(&store, named("web", "b"), &image(&A)).unwrap();
    let file = Location::Live.snapshot(b.id);
    assert_eq!(
        fs::metadata(root.join(file.as_str())).unwrap().uid(),
        12_345
    );
}

/// Whether this process may give files away.
fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}
