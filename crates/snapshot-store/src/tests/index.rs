//! Lists by the index, on a real file system: the same as lists without one.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::Arc;

use super::rig::{A, image, kind, named, options, take};
use crate::{ErrorKind, Filter, Index, IndexUse, Listing, Location, NewSnapshot, Store};
use proptest::prelude::*;
use snapshot_format::{SnapshotId, SnapshotRef, Tag};
use snapshot_memory::backend::{Backend, FsBackend, LockMode, RelPath};
use std::time::Duration;
use tempfile::TempDir;

/// A store in a directory of its own.
struct Rig {
    directory: TempDir,
    store: Store,
}

impl Rig {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let backend = FsBackend::create(&directory.path().join("store")).unwrap();
        let store = Store::create(Arc::new(backend), &options()).unwrap();
        Self { directory, store }
    }

    /// With so many snapshots of `web`.
    fn with(count: usize) -> (Self, Vec<SnapshotRef>) {
        let rig = Self::new();
        let taken = (0..count).map(|n| rig.take(named("web", &format!("s{n}"))));
        let taken = taken.collect();
        (rig, taken)
    }

    fn take(&self, new: NewSnapshot) -> SnapshotRef {
        take(&self.store, new, &image(&A)).unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("store").join(name)
    }

    fn file(&self, of: SnapshotRef, name: &str) -> PathBuf {
        self.path("snapshots").join(of.id.to_string()).join(name)
    }

    fn index(&self) -> Index {
        Index::open(&self.store, Some(&self.path(""))).settled_at_once()
    }

    /// Puts what `change` makes of rows in the place of what is kept; how many it changed.
    fn change_rows(&self, change: impl Fn(&[u8], &[u8]) -> Option<Vec<u8>>) -> usize {
        let connection = rusqlite::Connection::open(self.path("index.sqlite")).unwrap();
        let mut rows = connection
            .prepare("SELECT id, record FROM snapshot")
            .unwrap();
        let rows: Vec<(Vec<u8>, Vec<u8>)> = rows
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        let changed = rows.iter().filter_map(|(id, record)| {
            let record = change(id, record)?;
            let put = "UPDATE snapshot SET record = ?2 WHERE id = ?1";
            connection.execute(put, rusqlite::params![id, record]).ok()
        });
        changed.sum()
    }

    /// Opens the index and lists all; how many snapshots it read from their files.
    fn check(&self) -> u64 {
        let mut index = self.index();
        for location in [Location::Live, Location::Trash] {
            let by_index = index.list(location, &Filter::default()).unwrap();
            let by_files = match location {
                Location::Live => self.store.list(None).unwrap(),
                Location::Trash => self.store.trash().unwrap(),
            };
            assert_eq!(told(&by_index), told(&by_files), "{location:?}");
        }
        index.files_read()
    }
}

/// All that a listing says.
fn told(listing: &Listing) -> serde_json::Value {
    serde_json::to_value(listing).unwrap()
}

// spec: IDX-04
// spec: IDX-05
#[test]
fn what_did_not_change_is_read_once_and_what_did_again() {
    let (rig, taken) = Rig::with(4);
    assert_eq!(rig.index().how(), IndexUse::Made);
    assert_eq!(rig.check(), 4);
    assert_eq!(rig.index().how(), IndexUse::Found);
    assert_eq!(rig.check(), 0);
    let mode = fs::metadata(rig.path("index.sqlite"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);

    rig.store
        .change_metadata(taken[0].id, |m| m.protected = true)
        .unwrap();
    assert_eq!((rig.check(), rig.check()), (1, 0));
    rig.take(named("db", "base"));
    assert_eq!((rig.check(), rig.check()), (1, 0));
    rig.store
        .delete(&rig.store.plan_delete(taken[1].id).unwrap())
        .unwrap();
    assert_eq!((rig.check(), rig.check()), (1, 0));
    rig.store.undelete(taken[1].id).unwrap();
    assert_eq!((rig.check(), rig.check()), (1, 0));
    // A directory that is gone has no row either.
    fs::rename(
        rig.path("snapshots").join(taken[2].id.to_string()),
        rig.path("aside"),
    )
    .unwrap();
    assert_eq!((rig.check(), rig.check()), (0, 0));
    fs::rename(
        rig.path("aside"),
        rig.path("snapshots").join(taken[2].id.to_string()),
    )
    .unwrap();
    assert_eq!((rig.check(), rig.check()), (1, 0));
}

// spec: IDX-05
#[test]
fn damage_shows_at_once_hides_nothing_and_is_never_kept() {
    let (rig, taken) = Rig::with(3);
    rig.check();
    // In place, so that no directory tells of it.
    fs::write(rig.file(taken[0], "snapshot.json"), "nonsense").unwrap();
    assert_eq!((rig.check(), rig.check()), (1, 1));
    let listing = rig
        .index()
        .list(Location::Live, &Filter::default())
        .unwrap();
    assert!(listing.snapshots[0].metadata_problem.is_some());
    assert!(listing.snapshots[0].metadata.protected);

    let manifest = rig.file(taken[1], "manifest.vms");
    let bytes = fs::read(&manifest).unwrap();
    fs::set_permissions(&manifest, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&manifest, &bytes[..bytes.len() / 2]).unwrap();
    assert_eq!((rig.check(), rig.check()), (2, 2));
    let listing = rig
        .index()
        .list(Location::Live, &Filter::default())
        .unwrap();
    assert_eq!((listing.snapshots.len(), listing.damaged.len()), (2, 1));
    // What is damaged is told whatever is asked for.
    let filter = Filter {
        vm: "nobody".parse().ok(),
        ..Filter::default()
    };
    let listing = rig.index().list(Location::Live, &filter).unwrap();
    assert_eq!((listing.snapshots.len(), listing.damaged.len()), (0, 1));
    fs::write(&manifest, &bytes).unwrap();
    assert_eq!((rig.check(), rig.check()), (2, 1));
}

// spec: IDX-06
#[test]
fn what_changed_a_moment_ago_is_read_again() {
    let (rig, _) = Rig::with(2);
    for _ in 0..2 {
        let mut index = Index::open(&rig.store, Some(&rig.path("")));
        index.list(Location::Live, &Filter::default()).unwrap();
        assert_eq!(index.files_read(), 2);
    }
}

// spec: IDX-07
#[test]
fn whatever_is_wrong_with_the_index_lists_are_the_same_and_it_is_made_anew() {
    let (rig, _) = Rig::with(5);
    let (other, _) = Rig::with(1);
    other.check();
    let whole = |rig: &Rig| {
        rig.check();
        // All of it is in the one file once nobody has it open.
        fs::read(rig.path("index.sqlite")).unwrap()
    };
    let ours = whole(&rig);
    let foreign = whole(&other);
    let mut later = ours.clone();
    later[60..64].copy_from_slice(&[0, 0, 0, 9]);
    let mut torn = ours.clone();
    for byte in torn.iter_mut().skip(4096) {
        *byte ^= 0x5a;
    }
    let cases: [(&str, Vec<u8>); 6] = [
        ("empty", Vec::new()),
        ("no database", b"what is this".repeat(500)),
        ("another store's", foreign),
        ("a later schema", later),
        ("cut", ours[..ours.len() / 2].to_vec()),
        ("damaged pages", torn),
    ];
    for (what, bytes) in cases {
        for name in ["index.sqlite-wal", "index.sqlite-shm"] {
            drop(fs::remove_file(rig.path(name)));
        }
        fs::write(rig.path("index.sqlite"), bytes).unwrap();
        assert_eq!(rig.check(), 5, "{what}");
        assert_eq!(rig.check(), 0, "{what} was not made anew");
    }
}

// spec: IDX-07
#[test]
fn a_row_that_does_not_parse_is_read_and_kept_anew() {
    let (rig, taken) = Rig::with(3);
    rig.check();
    let bad = taken[1].id.0;
    let changed = rig.change_rows(|id, record| (id == bad).then(|| record[1..].to_vec()));
    assert_eq!(changed, 1);
    assert_eq!((rig.check(), rig.check()), (1, 0));
}

// spec: IDX-04
// spec: IDX-05
#[test]
fn many_are_looked_at_by_several_threads_in_their_order() {
    let (rig, taken) = Rig::with(2);
    // Directories without a manifest: damaged, in the order of their ids.
    for number in 0..1500_u128 {
        let id = SnapshotId((number << 64 | 1).to_le_bytes());
        fs::create_dir(rig.path("snapshots").join(id.to_string())).unwrap();
    }
    assert_eq!((rig.check(), rig.check()), (1502, 1500));
    // One in the middle of them changes, and one whose row is kept goes.
    fs::write(rig.file(taken[0], "snapshot.json"), "nonsense").unwrap();
    assert_eq!(rig.check(), 1501);
    fs::remove_dir_all(rig.path("snapshots").join(taken[1].id.to_string())).unwrap();
    assert_eq!(rig.check(), 1501);
    let rows = rig.change_rows(|_, record| Some(record.to_vec()));
    assert_eq!(rows, 0);
}

// spec: IDX-02
#[test]
fn an_index_that_others_have_open_is_not_removed() {
    let (rig, _) = Rig::with(2);
    rig.check();
    let backend = FsBackend::open(&rig.path("")).unwrap();
    let lock = RelPath::root().join("index.lock").unwrap();
    let held = backend
        .lock(&lock, LockMode::Shared, Duration::ZERO)
        .unwrap();
    fs::write(rig.path("index.sqlite"), "nonsense").unwrap();
    for _ in 0..2 {
        assert_eq!(rig.check(), 2);
        assert_eq!(rig.index().how(), IndexUse::None);
    }
    assert_eq!(fs::read(rig.path("index.sqlite")).unwrap(), b"nonsense");
    drop(held);
    assert_eq!((rig.check(), rig.check()), (2, 0));
    // Who makes it anew has it alone: others read the files meanwhile.
    let held = backend
        .lock(&lock, LockMode::Exclusive, Duration::ZERO)
        .unwrap();
    assert_eq!(rig.check(), 2);
    drop(held);
    assert_eq!(rig.check(), 0);
}

// spec: IDX-03
#[test]
fn what_is_planted_in_its_place_is_not_opened() {
    let (rig, _) = Rig::with(1);
    let target = rig.directory.path().join("target");
    fs::write(&target, "").unwrap();
    symlink(&target, rig.path("index.sqlite")).unwrap();
    assert_eq!(rig.check(), 1);
    assert_eq!(rig.index().how(), IndexUse::None);
    assert_eq!(fs::read(&target).unwrap(), b"");
    fs::remove_file(rig.path("index.sqlite")).unwrap();
    fs::hard_link(&target, rig.path("index.sqlite")).unwrap();
    assert_eq!(rig.index().how(), IndexUse::None);
    assert_eq!(fs::read(&target).unwrap(), b"");
}

// spec: IDX-01
#[test]
fn without_a_place_nothing_is_made() {
    let (rig, _) = Rig::with(2);
    let names = || {
        let entries = fs::read_dir(rig.path("")).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = names();
    let mut index = Index::open(&rig.store, None);
    let listing = index.list(Location::Live, &Filter::default()).unwrap();
    assert_eq!((listing.snapshots.len(), index.how()), (2, IndexUse::None));
    assert_eq!(names(), before);
    // A place of its own serves a store that can only be read.
    let place = rig.directory.path().join("caches").join("of this store");
    let index = || Index::open(&rig.store, Some(&place)).settled_at_once();
    for read in [2, 0] {
        let mut index = index();
        index.list(Location::Live, &Filter::default()).unwrap();
        assert_eq!(index.files_read(), read);
    }
    assert_eq!(names(), before);
}

// spec: IDX-08
#[test]
fn an_index_that_lies_decides_nothing() {
    let (rig, taken) = Rig::with(2);
    rig.check();
    let changed = rig.change_rows(|_, record| {
        let name = record
            .windows(4)
            .position(|text| text == [2, 0, b's', b'0']);
        let at = name.map_or(0, |at| at + 2);
        record[at..].starts_with(b"s0").then(|| {
            let (before, after) = (&record[..at], &record[at + 2..]);
            [before, b"l0", after].concat()
        })
    });
    assert_eq!(changed, 1);
    let filter = Filter {
        name: "l0".parse().ok(),
        ..Filter::default()
    };
    let found = rig.index().list(Location::Live, &filter).unwrap();
    assert_eq!(found.snapshots.len(), 1, "the list is not by the index");
    let again = take(&rig.store, named("web", "s0"), &image(&A));
    assert_eq!(kind(again), Some(ErrorKind::Exists));
    let meant = rig.store.resolve(&"web/s0".parse().unwrap()).unwrap();
    assert_eq!(meant, taken[0].id);
    let next = rig.take(named("web", "l0"));
    assert_eq!(rig.store.snapshot(next.id).unwrap().seq, 3);
    let made = Index::rebuild(&rig.store, Some(&rig.path(""))).unwrap();
    assert_eq!(made.snapshots, 3);
    rig.check();
}

// spec: IDX-09
#[test]
fn an_index_is_made_anew_on_demand() {
    let (rig, taken) = Rig::with(3);
    rig.check();
    fs::remove_file(rig.file(taken[0], "manifest.vms")).unwrap();
    let made = Index::rebuild(&rig.store, Some(&rig.path(""))).unwrap();
    assert_eq!((made.index, made.snapshots), (IndexUse::Made, 3));
    assert_eq!(made.damaged.len(), 1);
    let none = Index::rebuild(&rig.store, None).unwrap();
    assert_eq!((none.index, none.snapshots), (IndexUse::None, 3));
}

// spec: IDX-02
#[test]
fn several_list_while_one_changes() {
    let (rig, taken) = Rig::with(6);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..40 {
                    let listing = rig
                        .index()
                        .list(Location::Live, &Filter::default())
                        .unwrap();
                    assert_eq!((listing.snapshots.len(), listing.damaged.len()), (6, 0));
                }
            });
        }
        for round in 0..20 {
            let tag = Tag::new(format!("t{round}")).unwrap();
            let of = taken[round % taken.len()];
            rig.store
                .change_metadata(of.id, |m| m.tags.extend([tag]))
                .unwrap();
        }
    });
    rig.check();
    assert_eq!(rig.check(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    // spec: IDX-04
    // spec: IDX-05
    #[test]
    fn lists_are_the_same_after_any_changes(
        steps in prop::collection::vec((0..6_u8, any::<prop::sample::Index>()), 1..16)
    ) {
        let (rig, mut taken) = Rig::with(2);
        for (number, (step, which)) in steps.into_iter().enumerate() {
            let of = *which.get(&taken);
            let (file, id) = (rig.file(of, "snapshot.json"), of.id);
            match step {
                0 => taken.push(rig.take(named("web", &format!("n{number}")))),
                1 => drop(rig.store.change_metadata(id, |m| m.protected = false)),
                2 => drop(rig.store.plan_delete(id).and_then(|plan| rig.store.delete(&plan))),
                3 => drop(rig.store.undelete(id)),
                4 => drop(fs::write(file, format!("{number}"))),
                _ => drop(fs::remove_file(file)),
            }
            rig.check();
        }
    }
}
