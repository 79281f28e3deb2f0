//! A store under a filter made from the lists of its system calls.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![expect(clippy::unwrap_used, reason = "the tests fail by panicking")]

use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use snapshot_format::{
    BranchName, DataLayout, MemoryLayout, PAGE_BYTES, PageRange, SectionKind, SectionPayload,
    SnapshotRef, VmName, WorkingSetOrigin,
};
use snapshot_memory::backend::{FsBackend, HostIdentity};
use snapshot_memory::syscalls::PROCESS;
use snapshot_memory::testing::under_filter;
use snapshot_memory::{
    CaptureControl, CaptureOptions, DirtyBitmap, EngineChoice, MappedMemory, MappingOptions, Pages,
    RelayoutOptions, Stability, TouchedPages, WorkingSetOptions, write_working_set,
};
use snapshot_store::{
    Actor, Merge, NewSnapshot, OpenOptions, ReadAccess, Selection, Store, syscalls,
};

const PAGES: u64 = 64;

fn options() -> OpenOptions {
    OpenOptions::default().host(HostIdentity {
        host: "jail".to_owned(),
        boot_id: [7; 16],
    })
}

fn memory() -> MappedMemory {
    let layout = MemoryLayout::single(PAGES * PAGE_BYTES).unwrap();
    let memory = MappedMemory::new(layout, MappingOptions::default()).unwrap();
    for page in 0..PAGES {
        memory
            .write(page * PAGE_BYTES, &page.to_le_bytes())
            .unwrap();
    }
    memory
}

/// A descriptor of an empty directory, which stays when the test is over: it is taken down
/// unfiltered, by whoever cleans up temporary files.
fn directory() -> OwnedFd {
    let folder = tempfile::tempdir().unwrap();
    let root = std::fs::File::open(folder.path()).unwrap();
    std::mem::forget(folder);
    root.into()
}

fn open(root: OwnedFd) -> Store {
    let backend = Arc::new(FsBackend::from_fd(root).unwrap());
    Store::open_or_create(backend, &options()).unwrap()
}

fn publish(store: &Store, memory: &MappedMemory, parent: Option<SnapshotRef>) -> SnapshotRef {
    let capture = CaptureOptions::default().engine(EngineChoice::Buffered);
    let new = NewSnapshot::of(VmName::new("vm").unwrap()).parent(parent);
    let mut stage = store.sink(new.capture(capture)).stage().unwrap();
    let state = vec![1, 2, 3];
    stage.section(SectionPayload::raw(SectionKind::CALLER, 0, 1, state));
    let dirty = DirtyBitmap::new(PAGES);
    dirty.set_range(PageRange::new(3, 2));
    let dirty = &dirty;
    let pages = parent.map_or(Pages::Full, |base| Pages::Since { base, dirty });
    stage.memory(memory, pages, Stability::Paused).unwrap();
    stage.seal().unwrap().publish().unwrap().snapshot
}

fn read(store: &Store) {
    let listing = store.list(None).unwrap();
    assert_eq!(listing.snapshots.len(), 2);
    for record in &listing.snapshots {
        let stored = store.image(record.id).unwrap();
        let mut page = [0; 4096];
        stored
            .image()
            .read_pages(PageRange::new(9, 1), &mut page)
            .unwrap();
        assert_eq!(page[0], 9);
        assert!(store.state_bytes(record.id).unwrap().is_some());
    }
    store.usage().unwrap();
    let report = store
        .verify(Selection::All, &mut |_| ControlFlow::Continue(()))
        .unwrap();
    assert!(report.ok);
}

// spec: EMB-01
// spec: EMB-02
#[test]
fn reading() {
    let prepare = || {
        let root = directory();
        let store = open(root.try_clone().unwrap());
        let full = publish(&store, &memory(), None);
        publish(&store, &memory(), Some(full));
        root
    };
    under_filter("reading", &[PROCESS, syscalls::READ], prepare, |root| {
        read(&open(root));
    });
}

/// Gives a snapshot a working set of a few pages.
fn give_working_set(store: &Store, snapshot: SnapshotRef) {
    let image = store.image(snapshot.id).unwrap();
    let mut touched = TouchedPages::new(PAGES, WorkingSetOrigin::Named);
    touched.add(PageRange::new(2, 40));
    let mut stage = store.stage_working_set(snapshot.id).unwrap();
    let options = WorkingSetOptions::default();
    write_working_set(&image, snapshot, &touched, &options, stage.file()).unwrap();
    stage.publish().unwrap();
}

// spec: EMB-01
// spec: EMB-02
#[test]
fn working_sets() {
    let prepare = || {
        let root = directory();
        let store = open(root.try_clone().unwrap());
        let full = publish(&store, &memory(), None);
        publish(&store, &memory(), Some(full));
        give_working_set(&store, full);
        root
    };
    let lists = [PROCESS, syscalls::READ, syscalls::WORKING_SET];
    under_filter("working_sets", &lists, prepare, |root| read(&open(root)));
}

// spec: EMB-01
// spec: EMB-02
#[test]
fn writing() {
    let lists = [PROCESS, syscalls::READ, syscalls::WRITE];
    let prepare = || (directory(), memory());
    under_filter("writing", &lists, prepare, |(root, memory)| {
        let store = open(root);
        let full = publish(&store, &memory, None);
        let diff = publish(&store, &memory, Some(full));
        read(&store);
        store.change_metadata(diff.id, |_| {}).unwrap();
        let packed = RelayoutOptions::of(DataLayout::Packed);
        store.relayout(full.id, &packed).unwrap();
        give_working_set(&store, full);
        read(&store);
        store.drop_working_set(full.id).unwrap();
        let vm = VmName::new("vm").unwrap();
        let branch = BranchName::new("fix").unwrap();
        store.create_branch(&vm, &branch, full.id).unwrap();
        store.switch(&vm, Some(&branch)).unwrap();
        let merge = Merge::of(vm, diff.id, branch);
        store.merge(&merge).unwrap();
        std::mem::forget(memory);
    });
}

// spec: EMB-01
// spec: EMB-02
#[test]
fn warming() {
    let prepare = || {
        let root = directory();
        let store = open(root.try_clone().unwrap());
        let full = publish(&store, &memory(), None);
        publish(&store, &memory(), Some(full));
        root
    };
    let lists = [PROCESS, syscalls::READ, syscalls::WRITE, syscalls::WARM];
    under_filter("warming", &lists, prepare, |root| {
        let store = open(root);
        for record in store.list(None).unwrap().snapshots {
            let mut job = store.warm_job(record.id, CaptureControl::default());
            let end = job.end().unwrap();
            assert!(job.run().unwrap().built);
            drop(end);
        }
        for record in store.list(None).unwrap().snapshots {
            let cached = store.cached_image(record.id).unwrap().unwrap();
            assert_eq!(cached.len_bytes(), PAGES * PAGE_BYTES);
            assert!(store.drop_cached(record.id).unwrap());
        }
    });
}

// spec: EMB-01
#[test]
fn deleting() {
    let lists = [PROCESS, syscalls::READ, syscalls::WRITE, syscalls::ASK_PROC];
    let prepare = || (directory(), memory());
    under_filter("deleting", &lists, prepare, |(root, memory)| {
        let backend = Arc::new(FsBackend::from_fd(root).unwrap());
        let store = Store::create(backend, &OpenOptions::default()).unwrap();
        let full = publish(&store, &memory, None);
        store.delete(&store.plan_delete(full.id).unwrap()).unwrap();
        store.undelete(full.id).unwrap();
        std::mem::forget(memory);
    });
}

// spec: EMB-01
#[test]
fn auditing() {
    let lists = [PROCESS, syscalls::READ, syscalls::WRITE, syscalls::AUDIT];
    under_filter("auditing", &lists, directory, |root| {
        let store = open(root);
        let actor = Actor {
            host: "jail".to_owned(),
            pid: 1,
            uid: 0,
        };
        for _ in 0..2 {
            let intent = store.audit_intent(actor.clone(), "import", &[], &[]);
            store
                .audit_outcome(&intent.unwrap(), "done", "", &[])
                .unwrap();
        }
        let report = store.read_audit(None, &mut |_, _| {}).unwrap();
        assert!(report.ok && report.entries == 4);
    });
}

// spec: EMB-01
#[test]
fn giving_access() {
    let lists = [PROCESS, syscalls::READ, syscalls::WRITE, syscalls::ACCESS];
    let prepare = || {
        let root = directory();
        let group = group_of(&root);
        (root, memory(), group)
    };
    under_filter("giving_access", &lists, prepare, |(root, memory, group)| {
        let store = open(root);
        let access = ReadAccess::new(None, Some(group), 0o440).unwrap();
        store.set_read_access(access, true).unwrap();
        let full = publish(&store, &memory, None);
        store.change_metadata(full.id, |_| {}).unwrap();
        std::mem::forget(memory);
    });
}

/// The group that a directory has: anybody may give it to their files.
fn group_of(root: &OwnedFd) -> u32 {
    use std::os::unix::fs::MetadataExt;
    let root = std::fs::File::from(root.try_clone().unwrap());
    root.metadata().unwrap().gid()
}
