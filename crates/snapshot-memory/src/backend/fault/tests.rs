use std::collections::BTreeSet;

use super::*;

fn path(name: &str) -> RelPath {
    name.split('/')
        .fold(RelPath::root(), |path, part| path.join(part).unwrap())
}

/// The text of every file of the root that a crash may leave, missing ones as `None`.
fn outcomes(backend: &FaultBackend, name: &str) -> BTreeSet<Option<String>> {
    let look = |state: CrashState| text(&state.image, name);
    backend.crash_states().map(look).collect()
}

fn text(image: &MemBackend, name: &str) -> Option<String> {
    let file = image.open(&path(name)).ok()?;
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read_exact_at(0, &mut bytes).unwrap();
    Some(String::from_utf8(bytes).unwrap())
}

#[test]
fn unsynced_bytes_and_names_may_be_lost_apart() {
    let backend = FaultBackend::new(&MemBackend::new());
    let mut file = backend.create(&path("f")).unwrap();
    file.write_all_at(0, b"ab").unwrap();
    let found = outcomes(&backend, "f");
    let expected = [
        None,
        Some(String::new()),
        Some("ab".to_owned()),
        Some("\0\0".to_owned()),
        Some("a".to_owned()),
    ];
    assert_eq!(found, BTreeSet::from(expected));

    file.sync().unwrap();
    // The bytes are safe, the name is not.
    assert_eq!(
        outcomes(&backend, "f"),
        BTreeSet::from([None, Some("ab".to_owned())])
    );

    backend.sync_dir(&RelPath::root()).unwrap();
    assert_eq!(
        outcomes(&backend, "f"),
        BTreeSet::from([Some("ab".to_owned())])
    );
}

#[test]
fn a_rename_is_lost_until_its_directory_is_synced() {
    let base = MemBackend::new();
    drop(base.create(&path("old")).unwrap());
    let backend = FaultBackend::new(&base);
    backend
        .rename_noreplace(&path("old"), &path("new"))
        .unwrap();
    let both = |state: CrashState| {
        let exists = |name: &str| state.image.metadata(&path(name)).is_ok();
        (exists("old"), exists("new"))
    };
    let found: BTreeSet<_> = backend.crash_states().map(both).collect();
    assert_eq!(found, BTreeSet::from([(true, false), (false, true)]));
    backend.sync_dir(&RelPath::root()).unwrap();
    let found: BTreeSet<_> = backend.crash_states().map(both).collect();
    assert_eq!(found, BTreeSet::from([(false, true)]));
}

#[test]
fn a_failed_sync_is_not_healed_by_the_next() {
    let backend = FaultBackend::new(&MemBackend::new());
    let mut file = backend.create(&path("f")).unwrap();
    backend.sync_dir(&RelPath::root()).unwrap();
    file.write_all_at(0, b"x").unwrap();
    backend.fail_at(backend.call_count() + 1, Fault::Errno(5));
    assert_eq!(file.sync().unwrap_err().raw_os_error(), Some(5));
    file.sync().unwrap();
    assert!(outcomes(&backend, "f").contains(&Some(String::new())));
}

#[test]
fn after_the_cut_nothing_works_and_the_last_call_may_have_happened() {
    let backend = FaultBackend::new(&MemBackend::new());
    let mut file = backend.create(&path("f")).unwrap();
    backend.sync_dir(&RelPath::root()).unwrap();
    backend.cut_at(3);
    for _ in 0..2 {
        assert!(PowerLost::is(&file.write_all_at(0, b"xy").unwrap_err()));
    }
    assert!(PowerLost::is(&backend.open(&path("f")).unwrap_err()));
    assert!(PowerLost::is(&backend.list(&RelPath::root()).unwrap_err()));
    let found = outcomes(&backend, "f");
    assert!(
        found.contains(&Some(String::new())) && found.contains(&Some("xy".to_owned())),
        "{found:?}"
    );
}

#[test]
fn space_runs_out_within_a_write() {
    let backend = FaultBackend::new(&MemBackend::new());
    let mut file = backend.create(&path("f")).unwrap();
    backend.limit_bytes(3);
    file.write_all_at(0, b"ab").unwrap();
    assert_eq!(backend.free_bytes().unwrap(), 1);
    let full = file.write_all_at(2, b"cd").unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    assert_eq!(backend.open(&path("f")).unwrap().len().unwrap(), 3);
}

#[test]
fn the_first_bytes_of_a_failing_write_may_arrive() {
    let backend = FaultBackend::new(&MemBackend::new());
    let mut file = backend.create(&path("f")).unwrap();
    let fault = Fault::Partial { bytes: 2, errno: 5 };
    backend.fail_at(2, fault);
    let failed = file.write_all_at(0, b"abcd").unwrap_err();
    assert_eq!(failed.raw_os_error(), Some(5));
    assert_eq!(backend.open(&path("f")).unwrap().len().unwrap(), 2);
    // Only that call fails, and one that fails whole leaves nothing.
    file.write_all_at(2, b"cd").unwrap();
    backend.fail_at(4, Fault::Error(io::ErrorKind::StorageFull));
    let full = backend.create_dir(&path("d")).unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    assert!(backend.metadata(&path("d")).is_err());
    assert!(outcomes(&backend, "f").contains(&Some("abcd".to_owned())));
}

#[test]
fn calls_are_named_and_traced_to_their_callers() {
    let backend = FaultBackend::new(&MemBackend::new());
    backend.trace_call_sites();
    let any: &dyn Backend = &backend;
    any.create_dir(&path("d")).unwrap();
    for name in ["d/a", "d/b"] {
        drop(any.create(&path(name)).unwrap());
    }
    any.rename_noreplace(&path("d/a"), &path("c")).unwrap();
    any.sync_dir(&RelPath::root()).unwrap();
    let wait = Duration::ZERO;
    drop(any.lock(&path("lock"), LockMode::Shared, wait).unwrap());
    drop(any.lock(&path("lock"), LockMode::Shared, wait).unwrap());
    assert_eq!(
        any.create_dir(&path("d")).unwrap_err().kind(),
        io::ErrorKind::AlreadyExists
    );

    let calls = backend.calls();
    let told: Vec<_> = calls
        .iter()
        .map(|call| (call.operation, call.path.as_str()))
        .collect();
    let expected = [
        ("create-dir", "d"),
        ("create", "d/a"),
        ("create", "d/b"),
        ("rename", "d/a -> c"),
        ("sync-dir", "."),
        ("create", "lock"),
    ];
    assert_eq!(told, expected);
    for call in &calls {
        assert!(call.site.contains("fault/tests.rs:"), "{call:?}");
    }
    let sites: BTreeSet<_> = calls.iter().map(|call| &call.site).collect();
    // The two files are created by one line, and everything else by its own.
    assert_eq!(sites.len(), 5, "{sites:?}");
}

#[test]
fn a_directory_needs_its_parent_to_be_synced() {
    let backend = FaultBackend::new(&MemBackend::new());
    backend.create_dir(&path("d")).unwrap();
    backend.create(&path("d/f")).unwrap().sync().unwrap();
    backend.sync_dir(&path("d")).unwrap();
    let exists = |backend: &FaultBackend| -> BTreeSet<_> {
        let look = |state: CrashState| state.image.metadata(&path("d/f")).is_ok();
        backend.crash_states().map(look).collect()
    };
    assert_eq!(exists(&backend), BTreeSet::from([false, true]));
    backend.sync_dir(&RelPath::root()).unwrap();
    assert_eq!(exists(&backend), BTreeSet::from([true]));
}

#[test]
fn no_tree_loses_a_file_between_two_names() {
    let base = MemBackend::new();
    let mut file = base.create(&path("f")).unwrap();
    file.write_all_at(0, b"old").unwrap();
    base.create_dir(&path("trash")).unwrap();
    let backend = FaultBackend::new(&base);
    backend
        .rename_noreplace(&path("f"), &path("trash/f"))
        .unwrap();
    drop(backend.create(&path("f")).unwrap());
    // The new `f` took the place of the old one, which therefore is in its new place.
    for synced in [false, true] {
        for state in backend.crash_states() {
            let kept = state.image.open(&path("trash/f")).is_ok();
            let at_old = state.image.metadata(&path("f"));
            let old_in_place = at_old.is_ok_and(|found| found.len_bytes == 3);
            assert!(kept != old_in_place, "synced {synced}: {}", state.what);
        }
        backend.sync_dir(&RelPath::root()).unwrap();
    }
}

#[test]
fn each_file_may_lose_its_bytes_alone() {
    let backend = FaultBackend::new(&MemBackend::new());
    let names = ["a", "b", "c"];
    for name in names {
        let mut file = backend.create(&path(name)).unwrap();
        file.write_all_at(0, b"1").unwrap();
        file.write_all_at(1, b"2").unwrap();
    }
    backend.sync_dir(&RelPath::root()).unwrap();
    let lens =
        |state: CrashState| names.map(|name| state.image.metadata(&path(name)).unwrap().len_bytes);
    let found: BTreeSet<_> = backend.crash_states().map(lens).collect();
    for alone in [
        [0, 2, 2],
        [2, 0, 2],
        [2, 2, 0],
        [2, 0, 0],
        [0, 2, 0],
        [0, 0, 2],
    ] {
        assert!(found.contains(&alone), "{alone:?} is not in {found:?}");
    }
}

#[test]
fn names_and_bytes_may_be_lost_together_and_apart() {
    let base = MemBackend::new();
    let dirs = ["d", "e"];
    let files = ["a", "b"];
    for dir in dirs {
        base.create_dir(&path(dir)).unwrap();
    }
    let backend = FaultBackend::new(&base);
    let mut open = files.map(|name| backend.create(&path(name)).unwrap());
    backend.sync_dir(&RelPath::root()).unwrap();
    for file in &mut open {
        file.write_all_at(0, b"x").unwrap();
    }
    let names = ["d/x", "d/y", "e/z"];
    for name in names {
        drop(backend.create(&path(name)).unwrap());
    }
    let look = |state: CrashState| {
        let of = |name: &str| state.image.metadata(&path(name));
        let lens = files.map(|name| of(name).unwrap().len_bytes);
        (lens, names.map(|name| of(name).is_ok()))
    };
    let found: BTreeSet<_> = backend.crash_states().map(look).collect();
    for len in [0, 1] {
        let lens = [len; 2];
        let mut expected = vec![[false; 3], [true; 3]];
        for index in 0..3 {
            expected.push(std::array::from_fn(|at| at == index));
        }
        for names in expected {
            assert!(found.contains(&(lens, names)), "{lens:?} {names:?}");
        }
    }
    for index in 0..3 {
        let but_one = ([1; 2], std::array::from_fn(|at| at != index));
        assert!(found.contains(&but_one), "{but_one:?}");
    }
}

#[test]
fn a_write_may_arrive_in_any_part() {
    let backend = FaultBackend::new(&MemBackend::new());
    let mut file = backend.create(&path("f")).unwrap();
    backend.sync_dir(&RelPath::root()).unwrap();
    file.write_all_at(0, &[7; 10_000]).unwrap();
    let arrived = |state: CrashState| {
        let file = state.image.open(&path("f")).unwrap();
        let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
        file.read_exact_at(0, &mut bytes).unwrap();
        let first = bytes.iter().position(|byte| *byte != 0);
        (first, bytes.len())
    };
    let found: BTreeSet<_> = backend.crash_states().map(arrived).collect();
    let heads = [1, 512, 4096, 5000, 10_000 - 512, 9_999].map(|len| (Some(0), len));
    let tails = [512, 4096].map(|start| (Some(start), 10_000));
    let whole = [(None, 0), (None, 10_000), (Some(0), 10_000)];
    let expected: BTreeSet<_> = heads.into_iter().chain(tails).chain(whole).collect();
    assert_eq!(found, expected);
}

#[test]
fn images_are_unlocked_and_apart_from_each_other() {
    let backend = FaultBackend::new(&MemBackend::new());
    let wait = Duration::ZERO;
    let held = backend
        .lock(&path("lock"), LockMode::Exclusive, wait)
        .unwrap();
    backend.sync_dir(&RelPath::root()).unwrap();
    let image = backend.crash_states().next().unwrap().image;
    drop(
        image
            .lock(&path("lock"), LockMode::Exclusive, wait)
            .unwrap(),
    );
    image.remove_file(&path("lock")).unwrap();
    assert!(backend.metadata(&path("lock")).is_ok());
    drop(held);
}

/// The ways to replace a small file, of which one is right.
mod replace {
    use super::*;

    type Step = fn(&dyn Backend) -> io::Result<()>;

    fn write(backend: &dyn Backend, name: &str, sync: bool) -> io::Result<()> {
        let mut file = backend.create(&path(name))?;
        file.write_all_at(0, b"n")?;
        file.write_all_at(1, b"ew")?;
        if sync { file.sync() } else { Ok(()) }
    }

    fn right(backend: &dyn Backend) -> io::Result<()> {
        write(backend, "tmp", true)?;
        backend.rename_replace(&path("tmp"), &path("f"))?;
        backend.sync_dir(&RelPath::root())
    }

    fn without_file_sync(backend: &dyn Backend) -> io::Result<()> {
        write(backend, "tmp", false)?;
        backend.rename_replace(&path("tmp"), &path("f"))?;
        backend.sync_dir(&RelPath::root())
    }

    fn without_dir_sync(backend: &dyn Backend) -> io::Result<()> {
        write(backend, "tmp", true)?;
        backend.rename_replace(&path("tmp"), &path("f"))
    }

    fn rename_first(backend: &dyn Backend) -> io::Result<()> {
        let mut file = backend.create(&path("tmp"))?;
        backend.rename_replace(&path("tmp"), &path("f"))?;
        file.write_all_at(0, b"new")?;
        file.sync()?;
        backend.sync_dir(&RelPath::root())
    }

    fn remove_first(backend: &dyn Backend) -> io::Result<()> {
        write(backend, "tmp", true)?;
        backend.remove_file(&path("f"))?;
        backend.rename_noreplace(&path("tmp"), &path("f"))?;
        backend.sync_dir(&RelPath::root())
    }

    fn sync_again(backend: &dyn Backend) -> io::Result<()> {
        let mut file = backend.create(&path("tmp"))?;
        file.write_all_at(0, b"new")?;
        file.sync().or_else(|_| file.sync())?;
        backend.rename_replace(&path("tmp"), &path("f"))?;
        backend.sync_dir(&RelPath::root())
    }

    fn base() -> MemBackend {
        let base = MemBackend::new();
        let mut file = base.create(&path("f")).unwrap();
        file.write_all_at(0, b"old").unwrap();
        base
    }

    /// The trees in which `f` is neither old nor new, or old although `step` was done.
    fn violations(step: Step, plan: &dyn Fn(&FaultBackend)) -> Vec<String> {
        let backend = FaultBackend::new(&base());
        plan(&backend);
        let done = step(&backend).is_ok();
        let is_wrong = |state: &CrashState| {
            let found = text(&state.image, "f");
            let is_new = found.as_deref() == Some("new");
            !(is_new || !done && found.as_deref() == Some("old"))
        };
        let wrong = backend.crash_states().filter(is_wrong);
        wrong.map(|state| state.what).collect()
    }

    fn over_every_cut(step: Step) -> Vec<String> {
        let whole = FaultBackend::new(&base());
        step(&whole).unwrap();
        let cuts = 1..=whole.call_count() + 1;
        let found = cuts.map(|cut| violations(step, &|backend| backend.cut_at(cut)));
        found.flatten().collect()
    }

    #[test]
    fn the_right_one_survives_every_cut_and_every_failure() {
        assert_eq!(over_every_cut(right), Vec::<String>::new());
        for number in 1..=6 {
            for fault in [Fault::Errno(5), Fault::Error(io::ErrorKind::StorageFull)] {
                let plan = |backend: &FaultBackend| backend.fail_at(number, fault);
                assert_eq!(violations(right, &plan), Vec::<String>::new());
            }
        }
    }

    #[test]
    fn each_wrong_one_is_caught() {
        let wrong: [(&str, Step); 4] = [
            ("no sync of the file", without_file_sync),
            ("no sync of the directory", without_dir_sync),
            ("rename before the bytes", rename_first),
            ("remove before rename", remove_first),
        ];
        for (name, step) in wrong {
            assert!(!over_every_cut(step).is_empty(), "{name} was not caught");
        }
    }

    #[test]
    fn syncing_again_after_a_failure_is_caught() {
        assert_eq!(over_every_cut(sync_again), Vec::<String>::new());
        let caught = violations(sync_again, &|backend| backend.fail_at(3, Fault::Errno(5)));
        assert!(!caught.is_empty());
    }
}
