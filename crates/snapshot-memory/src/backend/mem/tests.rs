use std::sync::atomic::{AtomicUsize, Ordering};

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

#[test]
fn holes_are_what_nobody_wrote() {
    let tree = MemBackend::new();
    let mut file = tree.create(&path("f")).unwrap();
    // Zeros that were written take space, as on a disk.
    file.write_all_at(4096, &[0; 4096]).unwrap();
    file.write_all_at(20_000, b"xy").unwrap();
    file.set_len(1 << 40).unwrap();
    let read = tree.open(&path("f")).unwrap();
    assert_eq!(read.allocated_bytes().unwrap(), 8192);
    assert_eq!(read.next_data(0).unwrap(), Some((4096, 8192)));
    assert_eq!(read.next_data(5000).unwrap(), Some((5000, 8192)));
    assert_eq!(read.next_data(8192).unwrap(), Some((16_384, 20_480)));
    let end = (1 << 40, 1 << 40);
    assert_eq!(read.next_data(20_480).unwrap(), Some(end));
    // Cut within a block and grown again: what was cut is gone.
    file.set_len(20_001).unwrap();
    file.set_len(20_002).unwrap();
    let mut bytes = [1; 2];
    read.read_exact_at(20_000, &mut bytes).unwrap();
    assert_eq!(&bytes, b"x\0");
    let beyond = read.read_exact_at(20_001, &mut bytes).unwrap_err();
    assert_eq!(beyond.kind(), io::ErrorKind::UnexpectedEof);
    let too_large = file.write_all_at(u64::MAX, b"x").unwrap_err();
    assert_eq!(too_large.kind(), io::ErrorKind::FileTooLarge);
}

#[test]
fn hints_lie_where_they_are_told_to() {
    let tree = MemBackend::new();
    let mut file = tree.create(&path("f")).unwrap();
    file.write_all_at(8192, &[1; 4096]).unwrap();
    file.set_len(16_384).unwrap();
    let hint = |hints, offset| {
        tree.set_hole_hints(hints);
        let read = tree.open(&path("f")).unwrap();
        read.next_data(offset).unwrap()
    };
    assert_eq!(hint(HoleHints::Honest, 0), Some((8192, 12_288)));
    assert_eq!(hint(HoleHints::Unknown, 0), None);
    assert_eq!(hint(HoleHints::AllData, 1), Some((1, 16_384)));
    assert_eq!(hint(HoleHints::AllData, 16_384), Some((16_384, 16_384)));
    assert_eq!(hint(HoleHints::Unaligned, 0), Some((8191, 12_289)));
    assert_eq!(hint(HoleHints::Unaligned, 8192), Some((8192, 12_289)));
    assert_eq!(hint(HoleHints::Unaligned, 12_288), Some((16_384, 16_384)));
    assert_eq!(hint(HoleHints::Late, 0), Some((8193, 12_288)));
    assert_eq!(hint(HoleHints::AllHole, 0), Some((16_384, 16_384)));
}

#[test]
fn a_read_only_tree_is_read_and_locked_but_not_changed() {
    let tree = MemBackend::new();
    drop(tree.create(&path("lock")).unwrap());
    let mut file = tree.create(&path("f")).unwrap();
    tree.set_read_only(true);
    assert!(tree.file_system().unwrap().is_read_only);
    let refused = [
        file.write_all_at(0, b"x"),
        file.set_len(1),
        file.make_read_only(),
        tree.create(&path("g")).map(drop),
        tree.create_dir(&path("d")),
        tree.rename_replace(&path("f"), &path("g")),
        tree.remove_file(&path("f")),
        tree.lock(&path("new"), LockMode::Shared, Duration::ZERO)
            .map(drop),
    ];
    for (index, result) in refused.into_iter().enumerate() {
        let kind = result.unwrap_err().kind();
        assert_eq!(kind, io::ErrorKind::ReadOnlyFilesystem, "call {index}");
    }
    let lock = tree.lock(&path("lock"), LockMode::Exclusive, Duration::ZERO);
    drop(lock.unwrap());
    assert_eq!(tree.open(&path("f")).unwrap().len().unwrap(), 0);
    tree.snapshot().remove_file(&path("f")).unwrap();
    tree.set_read_only(false);
    file.make_read_only().unwrap();
    assert!(tree.is_sealed(&path("f")).unwrap());
}

#[test]
fn many_first_lockers_of_one_name_get_it_one_by_one() {
    let tree = MemBackend::new();
    let inside: [AtomicUsize; 50] = std::array::from_fn(|_| AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for (round, inside) in inside.iter().enumerate() {
                    let name = path(&format!("lock-{round}"));
                    let wait = Duration::from_secs(10);
                    let lock = tree.lock(&name, LockMode::Exclusive, wait).unwrap();
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    inside.fetch_sub(1, Ordering::SeqCst);
                    drop(lock);
                }
            });
        }
    });
    assert_eq!(tree.list(&RelPath::root()).unwrap().len(), 50);
}

#[test]
fn a_lock_is_on_the_file_that_has_the_name() {
    let tree = MemBackend::new();
    let name = path("lock");
    let held = tree
        .lock(&name, LockMode::Exclusive, Duration::ZERO)
        .unwrap();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| tree.lock(&name, LockMode::Exclusive, Duration::from_secs(10)));
        std::thread::sleep(Duration::from_millis(5));
        tree.remove_file(&name).unwrap();
        drop(held);
        let taken = waiter.join().unwrap().unwrap();
        let busy = tree.lock(&name, LockMode::Shared, Duration::ZERO);
        assert_eq!(busy.unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(taken);
    });
}
