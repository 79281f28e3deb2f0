use std::io;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use snapshot_format::SnapshotId;
use snapshot_memory::backend::{
    Entry, FileAccess, FsBackend, Lock, MemBackend, Metadata, ReadFile, WriteFile,
};

use super::*;

/// A tree in memory that says it lies elsewhere.
#[derive(Debug)]
struct Elsewhere {
    tree: MemBackend,
    file_system: FileSystem,
    /// How often a directory was listed.
    listed: AtomicUsize,
}

impl Elsewhere {
    fn new(tree: &MemBackend, name: &str, is_network: bool, is_read_only: bool) -> Arc<Self> {
        Arc::new(Self {
            tree: tree.clone(),
            file_system: FileSystem {
                name: name.to_owned(),
                is_network,
                is_read_only,
            },
            listed: AtomicUsize::new(0),
        })
    }

    fn guard(&self) -> io::Result<()> {
        if self.file_system.is_read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        Ok(())
    }
}

impl Backend for Elsewhere {
    fn open(&self, path: &RelPath) -> io::Result<Box<dyn ReadFile>> {
        self.tree.open(path)
    }
    fn create(&self, path: &RelPath) -> io::Result<Box<dyn WriteFile>> {
        self.guard()?;
        self.tree.create(path)
    }
    fn append(&self, path: &RelPath, bytes: &[u8]) -> io::Result<()> {
        self.guard()?;
        self.tree.append(path, bytes)
    }
    fn create_dir(&self, path: &RelPath) -> io::Result<()> {
        self.guard()?;
        self.tree.create_dir(path)
    }
    fn set_access(&self, path: &RelPath, access: FileAccess) -> io::Result<()> {
        self.guard()?;
        self.tree.set_access(path, access)
    }
    fn rename_noreplace(&self, from: &RelPath, to: &RelPath) -> io::Result<()> {
        self.guard()?;
        self.tree.rename_noreplace(from, to)
    }
    fn rename_replace(&self, from: &RelPath, to: &RelPath) -> io::Result<()> {
        self.guard()?;
        self.tree.rename_replace(from, to)
    }
    fn remove_file(&self, path: &RelPath) -> io::Result<()> {
        self.guard()?;
        self.tree.remove_file(path)
    }
    fn remove_dir(&self, path: &RelPath) -> io::Result<()> {
        self.guard()?;
        self.tree.remove_dir(path)
    }
    fn sync_dir(&self, path: &RelPath) -> io::Result<()> {
        self.tree.sync_dir(path)
    }
    fn list(&self, path: &RelPath) -> io::Result<Vec<Entry>> {
        self.listed.fetch_add(1, Ordering::Relaxed);
        self.tree.list(path)
    }
    fn metadata(&self, path: &RelPath) -> io::Result<Metadata> {
        self.tree.metadata(path)
    }
    fn lock(&self, path: &RelPath, mode: LockMode, wait: Duration) -> io::Result<Box<dyn Lock>> {
        if self.tree.metadata(path).is_err() {
            self.guard()?;
        }
        self.tree.lock(path, mode, wait)
    }
    fn free_bytes(&self) -> io::Result<u64> {
        self.tree.free_bytes()
    }
    fn file_system(&self) -> io::Result<FileSystem> {
        Ok(self.file_system.clone())
    }
}

fn options() -> OpenOptions {
    OpenOptions::default().lock_wait(Duration::from_millis(50))
}

fn kind<T>(result: Result<T, StoreError>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

/// Every name in the tree, with the length of files.
fn names(backend: &dyn Backend) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![RelPath::root()];
    while let Some(path) = open.pop() {
        for entry in backend.list(&path).unwrap() {
            let inner = path.join(&entry.name).unwrap();
            let len = backend.metadata(&inner).unwrap().len_bytes;
            found.push(format!("{inner} {len}"));
            if entry.kind == snapshot_memory::backend::EntryKind::Directory {
                open.push(inner);
            }
        }
    }
    found.sort();
    found
}

// spec: STO-02
#[test]
fn only_a_store_is_opened_and_only_an_empty_directory_becomes_one() {
    let tree = MemBackend::new();
    let backend = || -> Arc<dyn Backend> { Arc::new(tree.clone()) };
    assert_eq!(
        kind(Store::open(backend(), &options())),
        Some(ErrorKind::NotFound)
    );
    assert_eq!(names(&tree), Vec::<String>::new());
    let made = Store::create(backend(), &options()).unwrap();
    assert_eq!(
        kind(Store::create(backend(), &options())),
        Some(ErrorKind::Exists)
    );
    let opened = Store::open_or_create(backend(), &options()).unwrap();
    assert_eq!(opened.header(), made.header());

    let foreign = MemBackend::new();
    foreign
        .create_dir(&RelPath::root().join("photos").unwrap())
        .unwrap();
    let refused = Store::open_or_create(Arc::new(foreign.clone()), &options());
    assert_eq!(kind(refused), Some(ErrorKind::Exists));
    assert_eq!(names(&foreign), ["photos 0"]);
}

// spec: STO-02
#[test]
fn a_store_from_the_future_is_left_alone() {
    let tree = MemBackend::new();
    let writer = HostIdentity {
        host: "h".to_owned(),
        boot_id: [0; 16],
    };
    let mut header = StoreHeader::new(SnapshotId([1; 16]), false, &writer);
    header.version += 1;
    write_header(&tree, &header, None).unwrap();
    let before = names(&tree);
    for attempt in [Store::open, Store::open_or_create] {
        let backend: Arc<dyn Backend> = Arc::new(tree.clone());
        assert_eq!(kind(attempt(backend, &options())), Some(ErrorKind::TooNew));
    }
    assert_eq!(names(&tree), before);
}

// spec: STO-24
#[test]
fn a_network_file_system_needs_a_promise() {
    let tree = MemBackend::new();
    let nfs = || Elsewhere::new(&tree, "nfs", true, false);
    assert_eq!(
        kind(Store::create(nfs(), &options())),
        Some(ErrorKind::Refused)
    );
    assert_eq!(names(&tree), Vec::<String>::new());
    let promised = options().single_host(true);
    Store::create(nfs(), &promised).unwrap();
    // The promise is kept in the store.
    assert!(Store::open(nfs(), &options()).unwrap().header().single_host);

    let unpromised = MemBackend::new();
    Store::create(Arc::new(unpromised.clone()), &options()).unwrap();
    let moved = Elsewhere::new(&unpromised, "cifs", true, false);
    assert_eq!(
        kind(Store::open(moved, &options())),
        Some(ErrorKind::Refused)
    );
}

// spec: STO-18
#[test]
fn a_read_only_store_is_opened_without_a_trace() {
    let tree = MemBackend::new();
    Store::create(Arc::new(tree.clone()), &options()).unwrap();
    tree.create_dir(&directory::stage(SnapshotId([7; 16])))
        .unwrap();
    let before = names(&tree);
    let medium = Elsewhere::new(&tree, "iso9660", false, true);
    let store = Store::open(medium.clone(), &options()).unwrap();
    assert!(!store.is_writable());
    assert!(store.list(None).unwrap().snapshots.is_empty());
    assert_eq!(kind(store.begin_write()), Some(ErrorKind::Failed));
    let writing = options().access(Access::ReadWrite);
    Store::open(medium, &writing).unwrap_err();
    let reading = options().access(Access::ReadOnly);
    Store::open(Arc::new(tree.clone()), &reading).unwrap();
    assert_eq!(names(&tree), before);
}

// spec: STO-12
#[test]
fn leftovers_go_unless_their_writer_lives() {
    let tree = MemBackend::new();
    let backend = || -> Arc<dyn Backend> { Arc::new(tree.clone()) };
    Store::create(backend(), &options()).unwrap();
    let (dead, alive) = (SnapshotId([7; 16]), SnapshotId([8; 16]));
    for id in [dead, alive] {
        tree.create_dir(&directory::stage(id)).unwrap();
        drop(
            tree.create(&directory::below(&directory::stage(id), "memory.img"))
                .unwrap(),
        );
    }
    let lock = |id| {
        tree.lock(
            &directory::snapshot_lock(id),
            LockMode::Exclusive,
            Duration::ZERO,
        )
    };
    drop(lock(dead).unwrap());
    let held = lock(alive).unwrap();
    Store::open(backend(), &options()).unwrap();
    let remains = |id| {
        let stage = tree.metadata(&directory::stage(id)).is_ok();
        (stage, tree.metadata(&directory::snapshot_lock(id)).is_ok())
    };
    assert_eq!(remains(dead), (false, false));
    assert_eq!(remains(alive), (true, true));
    drop(held);
    Store::open(backend(), &options()).unwrap();
    assert_eq!(remains(alive), (false, false));
}

// spec: STO-12
#[test]
fn who_puts_the_clean_up_off_lists_nothing_and_leaves_it_to_the_next() {
    let tree = MemBackend::new();
    Store::create(Arc::new(tree.clone()), &options()).unwrap();
    let dead = directory::stage(SnapshotId([7; 16]));
    tree.create_dir(&dead).unwrap();
    let before = names(&tree);
    let counting = Elsewhere::new(&tree, "ext4", false, false);
    let store = Store::open(counting.clone(), &options().clean_up(false)).unwrap();
    assert_eq!(counting.listed.load(Ordering::Relaxed), 0);
    assert_eq!(names(&tree), before);
    // It can be written to all the same.
    store.begin_write().unwrap();
    Store::open(counting.clone(), &options()).unwrap();
    assert!(counting.listed.load(Ordering::Relaxed) > 0);
    tree.metadata(&dead).unwrap_err();
}

// spec: STO-04
#[test]
fn a_writer_after_a_boot_puts_itself_into_the_header() {
    let tree = MemBackend::new();
    let backend = || -> Arc<dyn Backend> { Arc::new(tree.clone()) };
    let store = Store::create(backend(), &options()).unwrap();
    let mut header = store.header().clone();
    header.set_last_writer(&HostIdentity {
        host: "elsewhere".to_owned(),
        boot_id: [1; 16],
    });
    write_header(&tree, &header, None).unwrap();
    let store = Store::open(backend(), &options()).unwrap();
    assert_eq!(store.header().last_host, "elsewhere");
    store.begin_write().unwrap();
    let again = Store::open(backend(), &options()).unwrap();
    assert_eq!(again.header().last_host, this_host(None).unwrap().host);
    assert_eq!(again.header().id, header.id);
}

#[test]
fn of_two_creators_one_makes_the_store_and_both_open_it() {
    let dir = tempfile::tempdir().unwrap();
    let barrier = Barrier::new(2);
    let open = || {
        let backend = FsBackend::open(dir.path()).unwrap();
        barrier.wait();
        let options = OpenOptions::default().access(Access::ReadWrite);
        let store = Store::open_or_create(Arc::new(backend), &options).unwrap();
        store.header().id
    };
    let (one, two) = std::thread::scope(|scope| {
        let other = scope.spawn(open);
        (open(), other.join().unwrap())
    });
    assert_eq!(one, two);
}

// spec: STO-25
#[test]
fn a_wait_for_a_lock_ends_and_names_the_holder() {
    let dir = tempfile::tempdir().unwrap();
    let backend: Arc<dyn Backend> = Arc::new(FsBackend::open(dir.path()).unwrap());
    let store = Store::create(Arc::clone(&backend), &options()).unwrap();
    let path = directory::commit_lock();
    let _held = store.lock_exclusively(&path).unwrap();
    let error = store.lock_exclusively(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    if !backend.lock_holders(&path).unwrap().is_empty() {
        let own = std::process::id().to_string();
        assert!(error.to_string().contains(&own), "{error}");
    }
}
