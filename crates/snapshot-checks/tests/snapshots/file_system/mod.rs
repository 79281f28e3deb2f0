//! What real file systems make of it: ext4, XFS and btrfs in loop files, and memory.

use std::fs::{self, Metadata, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use snapshot_checks::Way;
use snapshot_checks::mount::{Disk, FileSystem};
use snapshot_format::{Arch, FileKind, PageRange, SnapshotId};
use snapshot_memory::backend::{Backend, FsBackend};
use snapshot_memory::skip::skip;
use snapshot_memory::{
    CaptureOptions, DirectorySink, EngineChoice, MemoryImage, PublishedSnapshot,
};

use crate::machine::vm;

mod cached;
mod full;
mod queue;
mod raw;
mod sparse;

/// Bytes of each disk; XFS takes no less.
const DISK_BYTES: u64 = 320 << 20;

/// Room for what a file system needs beside the bytes: blocks of its maps of extents.
const SLACK_BYTES: u64 = 64 << 10;

/// Runs `check` on an empty disk of each kind that can be had here.
fn on_each_disk(check: impl Fn(&Disk)) {
    for fs in FileSystem::ALL {
        match fs.lacking() {
            Some(reason) => skip(fs.name(), &reason),
            None => check(&Disk::new(fs, DISK_BYTES).unwrap()),
        }
    }
    match Disk::in_memory(DISK_BYTES) {
        Ok(disk) => check(&disk),
        Err(error) => skip("tmpfs", &format!("no memory can be mounted: {error}")),
    }
}

fn backend(disk: &Disk) -> Arc<dyn Backend> {
    Arc::new(FsBackend::open(disk.root()).unwrap())
}

fn sink(disk: &Disk, options: CaptureOptions) -> DirectorySink {
    DirectorySink::new(backend(disk), vm(), Arch::host()).with_capture(options)
}

fn image(disk: &Disk, id: SnapshotId) -> MemoryImage {
    let backend = backend(disk);
    let published = PublishedSnapshot::open(&*backend, id).unwrap();
    published.image(&*backend).unwrap()
}

/// All pages of a snapshot.
fn bytes_of(image: &MemoryImage) -> Vec<u8> {
    let layout = image.layout();
    let mut bytes = vec![0; usize::try_from(layout.len_bytes()).unwrap()];
    let pages = PageRange::new(0, layout.page_count());
    image.read_pages(pages, &mut bytes).unwrap();
    bytes
}

/// The data file of a snapshot, as the file system knows it once all is written back.
fn data_file(disk: &Disk, id: SnapshotId) -> Metadata {
    let name = FileKind::MemoryData.file_name(0);
    written_back(&disk.root().join(id.to_string()).join(name))
}

fn written_back(path: &Path) -> Metadata {
    let file = fs::File::open(path).unwrap();
    file.sync_all().unwrap();
    file.metadata().unwrap()
}

fn allocated_bytes(file: &Metadata) -> u64 {
    file.blocks() * 512
}

/// The ways that can be asked for on `disk`, and the one that is chosen.
fn ways(disk: &Disk) -> impl Iterator<Item = Way> {
    let has_direct = has_direct_writes(disk);
    let all = Way::ALL.into_iter().chain([Way::default()]);
    all.filter(move |way| has_direct || way.engine != EngineChoice::Direct)
}

/// Whether a file can be opened for writes to a device below it, and the kernel lets rings be made.
fn has_direct_writes(disk: &Disk) -> bool {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    let probe = disk.root().join("probe");
    let opened = options.custom_flags(libc::O_DIRECT).open(&probe);
    // The file is there even where it could not be opened this way.
    let _ = fs::remove_file(&probe);
    let disabled = fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
    opened.is_ok()
        && disk.name() != "tmpfs"
        && disabled.is_ok_and(|disabled| disabled.trim() == "0")
}
