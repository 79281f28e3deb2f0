use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use nix::sys::stat::mknod;
use tempfile::TempDir;

use super::*;

fn backend() -> (TempDir, FsBackend) {
    let dir = tempfile::tempdir().unwrap();
    let backend = FsBackend::open(dir.path()).unwrap();
    (dir, backend)
}

fn path(name: &str) -> RelPath {
    name.split('/')
        .fold(RelPath::root(), |path, part| path.join(part).unwrap())
}

fn refusal<T>(result: io::Result<T>) -> Option<Refusal> {
    result.err().as_ref().and_then(Refusal::of)
}

// spec: PUB-11
#[test]
fn a_file_is_created_once_private_and_sealed_read_only() {
    let (dir, backend) = backend();
    let name = path("image");
    let mut file = backend.create(&name).unwrap();
    assert_eq!(
        fs::metadata(dir.path().join("image")).unwrap().mode() & 0o777,
        0o600
    );
    file.write_all_at(4096, b"tail").unwrap();
    file.set_len(8192).unwrap();
    file.sync().unwrap();
    file.make_read_only().unwrap();
    assert_eq!(
        fs::metadata(dir.path().join("image")).unwrap().mode() & 0o777,
        0o400
    );
    let again = backend.create(&name).unwrap_err();
    assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);

    let file = backend.open(&name).unwrap();
    assert_eq!(file.len().unwrap(), 8192);
    let mut tail = [0; 4];
    file.read_exact_at(4096, &mut tail).unwrap();
    assert_eq!(&tail, b"tail");
    let beyond = file.read_exact_at(8190, &mut tail).unwrap_err();
    assert_eq!(beyond.kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(backend.metadata(&name).unwrap().len_bytes, 8192);
    assert_eq!(
        file.allocated_bytes().unwrap(),
        backend.metadata(&name).unwrap().allocated_bytes
    );
}

// spec: PUB-03
#[test]
fn links_pipes_and_directories_are_never_opened() {
    let (dir, backend) = backend();
    fs::write(dir.path().join("real"), b"x").unwrap();
    symlink("real", dir.path().join("link")).unwrap();
    fs::create_dir(dir.path().join("folder")).unwrap();
    symlink("folder", dir.path().join("way")).unwrap();
    fs::write(dir.path().join("folder/inside"), b"x").unwrap();
    mknod(&dir.path().join("pipe"), SFlag::S_IFIFO, Mode::S_IRUSR, 0).unwrap();

    assert_eq!(
        refusal(backend.open(&path("link"))),
        Some(Refusal::SymbolicLink)
    );
    assert_eq!(
        refusal(backend.open(&path("way/inside"))),
        Some(Refusal::SymbolicLink)
    );
    assert_eq!(
        refusal(backend.create(&path("way/new"))),
        Some(Refusal::SymbolicLink)
    );
    assert_eq!(
        refusal(backend.list(&path("way"))),
        Some(Refusal::SymbolicLink)
    );
    assert_eq!(
        refusal(backend.open(&path("pipe"))),
        Some(Refusal::NotRegular)
    );
    assert_eq!(
        refusal(backend.open(&path("folder"))),
        Some(Refusal::NotRegular)
    );
    let lock = backend.lock(&path("link"), LockMode::Exclusive, Duration::ZERO);
    assert_eq!(refusal(lock), Some(Refusal::SymbolicLink));
    assert_eq!(
        backend.metadata(&path("link")).unwrap().kind,
        EntryKind::Other
    );
    assert!(backend.open(&path("folder/inside")).is_ok());
    // A link that leads nowhere must not be created through.
    symlink("elsewhere", dir.path().join("dangling")).unwrap();
    let created = backend.create(&path("dangling")).unwrap_err();
    assert_eq!(created.kind(), io::ErrorKind::AlreadyExists);
    assert!(!dir.path().join("elsewhere").exists());
}

// spec: PUB-03
#[test]
fn a_file_with_two_names_is_refused() {
    let (dir, backend) = backend();
    fs::write(dir.path().join("one"), b"x").unwrap();
    fs::hard_link(dir.path().join("one"), dir.path().join("two")).unwrap();
    let expected = Some(Refusal::ManyLinks { links: 2 });
    assert_eq!(refusal(backend.open(&path("one"))), expected);
    let lock = backend.lock(&path("two"), LockMode::Shared, Duration::ZERO);
    assert_eq!(refusal(lock), expected);
}

#[test]
fn a_rename_replaces_only_when_told_to() {
    let (_dir, backend) = backend();
    drop(backend.create(&path("a")).unwrap());
    backend.create_dir(&path("d")).unwrap();
    drop(backend.create(&path("d/b")).unwrap());
    let error = backend
        .rename_noreplace(&path("a"), &path("d/b"))
        .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    backend.rename_replace(&path("a"), &path("d/b")).unwrap();
    backend.rename_noreplace(&path("d"), &path("e")).unwrap();
    backend.sync_dir(&RelPath::root()).unwrap();
    let names = |path: RelPath| -> Vec<_> {
        let entries = backend.list(&path).unwrap().into_iter();
        entries.map(|entry| (entry.name, entry.kind)).collect()
    };
    assert_eq!(
        names(RelPath::root()),
        [("e".to_owned(), EntryKind::Directory)]
    );
    assert_eq!(names(path("e")), [("b".to_owned(), EntryKind::File)]);
    assert!(backend.remove_dir(&path("e")).is_err());
    backend.remove_file(&path("e/b")).unwrap();
    backend.remove_dir(&path("e")).unwrap();
    assert_eq!(names(RelPath::root()), []);
}

// spec: PUB-13
#[test]
fn locks_exclude_and_are_released_by_dropping() {
    let (dir, backend) = backend();
    let other = FsBackend::open(dir.path()).unwrap();
    let name = path("lock");
    let shared = backend
        .lock(&name, LockMode::Shared, Duration::ZERO)
        .unwrap();
    let second = other.lock(&name, LockMode::Shared, Duration::ZERO).unwrap();
    let busy = other.lock(&name, LockMode::Exclusive, Duration::from_millis(5));
    assert_eq!(busy.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    drop((shared, second));
    let alone = other
        .lock(&name, LockMode::Exclusive, Duration::ZERO)
        .unwrap();
    let passed_on = alone.as_fd().unwrap().try_clone_to_owned().unwrap();
    let ours = std::process::id();
    assert_eq!(backend.lock_holders(&name).unwrap(), [ours]);
    drop(alone);
    // A lease is a descriptor: a copy of it keeps the lock.
    let busy = backend.lock(&name, LockMode::Shared, Duration::ZERO);
    assert_eq!(busy.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    drop(passed_on);
    assert!(
        backend
            .lock(&name, LockMode::Shared, Duration::ZERO)
            .is_ok()
    );
}

// spec: PUB-13
#[test]
fn a_lock_is_on_the_file_that_is_linked_now() {
    let (_dir, backend) = backend();
    let name = path("lock");
    let first = backend
        .lock(&name, LockMode::Exclusive, Duration::ZERO)
        .unwrap();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            backend
                .lock(&name, LockMode::Exclusive, Duration::from_secs(10))
                .unwrap()
        });
        std::thread::sleep(Duration::from_millis(20));
        backend.remove_file(&name).unwrap();
        drop(first);
        let held = waiter.join().unwrap();
        let busy = backend.lock(&name, LockMode::Shared, Duration::ZERO);
        assert_eq!(busy.unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(held);
    });
}

#[test]
fn holes_are_hinted_where_the_file_system_has_them() {
    let (_dir, backend) = backend();
    let mut file = backend.create(&path("sparse")).unwrap();
    file.write_all_at(1 << 20, &[1; 4096]).unwrap();
    file.set_len(2 << 20).unwrap();
    file.sync().unwrap();
    let file = backend.open(&path("sparse")).unwrap();
    let (start, end) = file.next_data(0).unwrap().expect("this file system tells");
    assert!(
        start <= 1 << 20 && end >= (1 << 20) + 4096,
        "{start}..{end}"
    );
    assert_eq!(file.next_data(end).unwrap(), Some((2 << 20, 2 << 20)));
}

// spec: PUB-10
#[test]
fn missing_ancestors_of_a_root_are_made_private() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("a/b/store");
    let backend = FsBackend::create(&deep).unwrap();
    assert_eq!(fs::metadata(&deep).unwrap().mode() & 0o777, 0o700);
    assert!(backend.free_bytes().unwrap() > 0);
    FsBackend::create(&deep).unwrap();
    fs::write(dir.path().join("file"), b"").unwrap();
    assert!(FsBackend::create(&dir.path().join("file")).is_err());
}

// spec: PUB-03
#[test]
fn a_file_of_another_user_is_refused() {
    let (dir, backend) = backend();
    fs::write(dir.path().join("theirs"), b"x").unwrap();
    if std::os::unix::fs::chown(dir.path().join("theirs"), Some(4711), None).is_err() {
        crate::skip::skip("root", "only root can give a file to another user");
        return;
    }
    let expected = Some(Refusal::ForeignOwner { uid: 4711 });
    assert_eq!(refusal(backend.open(&path("theirs"))), expected);
    let lock = backend.lock(&path("theirs"), LockMode::Shared, Duration::ZERO);
    assert_eq!(refusal(lock), expected);
}
