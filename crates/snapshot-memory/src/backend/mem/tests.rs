use super::*;

fn path(name: &str) -> RelPath {
    name.split('/')
        .fold(RelPath::root(), |path, part| path.join(part).unwrap())
}

#[test]
fn two_users_of_one_tree_exclude_each_other() {
    let tree = MemBackend::new();
    let other = tree.clone();
    let name = path("lock");
    let held = tree
        .lock(&name, LockMode::Exclusive, Duration::ZERO)
        .unwrap();
    let busy = other.lock(&name, LockMode::Shared, Duration::from_millis(1));
    assert_eq!(busy.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| other.lock(&name, LockMode::Shared, Duration::from_secs(10)));
        std::thread::sleep(Duration::from_millis(5));
        drop(held);
        let shared = waiter.join().unwrap().unwrap();
        let second = tree.lock(&name, LockMode::Shared, Duration::ZERO).unwrap();
        let busy = tree.lock(&name, LockMode::Exclusive, Duration::ZERO);
        assert_eq!(busy.unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop((shared, second));
    });
    tree.lock(&name, LockMode::Exclusive, Duration::ZERO)
        .unwrap();
}

#[test]
fn the_tree_answers_as_a_file_system_does() {
    let tree = MemBackend::new();
    tree.create_dir(&path("d")).unwrap();
    let mut file = tree.create(&path("d/f")).unwrap();
    file.write_all_at(8192, b"x").unwrap();
    assert_eq!(file.allocated_bytes().unwrap(), 4096);
    let kind = |result: io::Result<()>| result.unwrap_err().kind();
    assert_eq!(
        kind(tree.create(&path("d/f")).map(drop)),
        io::ErrorKind::AlreadyExists
    );
    assert_eq!(
        kind(tree.create_dir(&path("d"))),
        io::ErrorKind::AlreadyExists
    );
    assert_eq!(
        kind(tree.open(&path("d/g")).map(drop)),
        io::ErrorKind::NotFound
    );
    assert_eq!(
        kind(tree.open(&path("d")).map(drop)),
        io::ErrorKind::InvalidInput
    );
    assert_eq!(
        kind(tree.remove_dir(&path("d"))),
        io::ErrorKind::DirectoryNotEmpty
    );
    assert_eq!(
        kind(tree.remove_file(&path("d"))),
        io::ErrorKind::IsADirectory
    );
    tree.create_dir(&path("e")).unwrap();
    assert_eq!(
        kind(tree.rename_noreplace(&path("d"), &path("e"))),
        io::ErrorKind::AlreadyExists
    );
    tree.rename_noreplace(&path("d"), &path("e/moved")).unwrap();
    let read = tree.open(&path("e/moved/f")).unwrap();
    assert_eq!(read.next_data(0).unwrap(), Some((8192, 8193)));
    assert_eq!(read.next_data(8193).unwrap(), Some((8193, 8193)));
    tree.remove_file(&path("e/moved/f")).unwrap();
    // An open file outlives its name.
    assert_eq!(read.len().unwrap(), 8193);
}
