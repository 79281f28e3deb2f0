//! A vault under a filter made from the lists of its system calls.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![expect(clippy::unwrap_used, reason = "the tests fail by panicking")]

use std::os::fd::OwnedFd;
use std::sync::Arc;

use snapshot_format::{MemoryLayout, PAGE_BYTES, PageRange, SnapshotId};
use snapshot_memory::backend::FsBackend;
use snapshot_memory::syscalls::{CAPTURE_THREADS, PROCESS};
use snapshot_memory::testing::under_filter;
use snapshot_memory::{PageRun, PageSource, SourceError};
use snapshot_vault::{
    ArchiveFile, ArchiveInput, ArchiveOptions, ArchivedKind, CollectOptions, Domain, FolderObjects,
    ObjectId, ScopeName, Sealing, Vault, syscalls,
};

const PAGES: u64 = 64;

/// Memory in which every page is full of its number.
struct Numbers(MemoryLayout);

impl PageSource for Numbers {
    fn layout(&self) -> &MemoryLayout {
        &self.0
    }

    fn run(&self, pages: PageRange) -> Result<PageRun, SourceError> {
        Ok(PageRun {
            count: pages.count,
            is_zero: false,
        })
    }

    fn read_pages(&self, pages: PageRange, out: &mut [u8]) -> Result<(), SourceError> {
        for (page, bytes) in (pages.start.0..).zip(out.chunks_mut(4096)) {
            bytes.fill(u8::try_from(page).unwrap_or_default());
        }
        Ok(())
    }
}

/// A descriptor of an empty directory, which stays when the test is over: it is taken down
/// unfiltered, by whoever cleans up temporary files.
fn directory() -> OwnedFd {
    let folder = tempfile::tempdir().unwrap();
    let root = std::fs::File::open(folder.path()).unwrap();
    std::mem::forget(folder);
    root.into()
}

fn domain(root: OwnedFd) -> Domain {
    let backend = Arc::new(FsBackend::from_fd(root).unwrap());
    let objects = Arc::new(FolderObjects::open(backend).unwrap());
    let vault = Vault::open_or_create(objects).unwrap();
    let scope = ScopeName::default_scope();
    vault
        .scope(&scope, None)
        .or_else(|_| vault.create_domain(&scope, &Sealing::Open))
        .unwrap()
}

fn archive(domain: &Domain, number: u8, threads: usize) -> ObjectId {
    let memory = Numbers(MemoryLayout::single(PAGES * PAGE_BYTES).unwrap());
    let bytes = [number];
    let manifest = ArchiveFile {
        kind: ArchivedKind::MANIFEST,
        index: 0,
        bytes: &bytes,
    };
    let input = ArchiveInput {
        snapshot: SnapshotId([number; 16]),
        files: &[manifest],
        memory: Some(&memory),
        relative: None,
    };
    let options = ArchiveOptions::default().threads(threads);
    domain.archive(&input, &options).unwrap().id
}

// spec: EMB-01, EMB-02
#[test]
fn reading() {
    let prepare = || {
        let root = directory();
        archive(&domain(root.try_clone().unwrap()), 1, 0);
        root
    };
    let lists = [PROCESS, syscalls::READ, syscalls::SHRINK_HEAP];
    under_filter("reading", &lists, prepare, |root| {
        let backend = Arc::new(FsBackend::from_fd(root).unwrap());
        let vault = Vault::open(Arc::new(FolderObjects::read_only(backend))).unwrap();
        let domain = vault.scope(&ScopeName::default_scope(), None).unwrap();
        let found = domain.archives().unwrap();
        let cold = domain.open_archive(found.archives[0].id).unwrap();
        let mut page = [0; 4096];
        let memory = cold.memory().unwrap();
        memory.read_pages(PageRange::new(9, 1), &mut page).unwrap();
        assert_eq!(page, [9; 4096]);
        assert!(domain.verify(0).unwrap().is_ok());
    });
}

// spec: EMB-01
#[test]
fn writing_leasing_and_collecting() {
    let lists = [
        PROCESS,
        syscalls::READ,
        syscalls::WRITE,
        syscalls::SHRINK_HEAP,
    ];
    under_filter(
        "writing_leasing_and_collecting",
        &lists,
        directory,
        |root| {
            let domain = domain(root);
            let first = archive(&domain, 1, 0);
            archive(&domain, 2, 0);
            domain.lease_archive(first).unwrap().release().unwrap();
            domain.delete_archive(first).unwrap();
            let back = domain.undelete_archive(first).unwrap();
            domain.delete_archive(back).unwrap();
            let mut options = CollectOptions::default();
            options.expire_trash = true;
            assert_eq!(domain.collect(&options).unwrap().expired, 2);
        },
    );
}

// spec: EMB-01, EMB-04
#[test]
fn writing_with_threads() {
    let lists = [
        PROCESS,
        syscalls::READ,
        syscalls::WRITE,
        syscalls::SHRINK_HEAP,
        CAPTURE_THREADS,
    ];
    under_filter("writing_with_threads", &lists, directory, |root| {
        archive(&domain(root), 1, 1);
    });
}
