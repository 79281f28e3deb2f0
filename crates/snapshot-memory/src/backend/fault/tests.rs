use std::collections::BTreeSet;

use super::*;

fn path(name: &str) -> RelPath {
    name.split('/')
        .fold(RelPath::root(), |path, part| path.join(part).unwrap())
}

/// The text of every file of the root that a crash may leave, missing ones as `None`.
fn outcomes(backend: &FaultBackend, name: &str) -> BTreeSet<Option<String>> {
    let look = |state: CrashState| {
        let file = state.image.open(&path(name)).ok()?;
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_exact_at(0, &mut bytes).unwrap();
        Some(String::from_utf8(bytes).unwrap())
    };
    backend.crash_states().map(look).collect()
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
fn a_call_is_traced_to_its_caller() {
    let backend: Box<dyn Backend> = {
        let backend = FaultBackend::new(&MemBackend::new());
        backend.trace_call_sites();
        backend.create_dir(&path("d")).unwrap();
        let calls = backend.calls();
        assert_eq!(calls.len(), 1);
        assert_eq!(calls[0].operation, "create");
        assert!(!calls[0].site.is_empty());
        Box::new(backend)
    };
    backend.sync_dir(&RelPath::root()).unwrap();
}
