//! Sparse memory files of others, however their holes were made, and the ones that are written here.

use std::fs::{self, File};
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::fcntl::{FallocateFlags, fallocate};
use snapshot_checks::Way;
use snapshot_checks::mount::Disk;
use snapshot_format::{Arch, MemoryLayout, SnapshotId};
use snapshot_memory::backend::{Backend, HoleHints, MemBackend, RelPath};
use snapshot_memory::{
    DirectorySink, MemoryImage, Pages, PublishedSnapshot, RawFile, SnapshotSink, Stability,
};

use super::{SLACK_BYTES, allocated_bytes, backend, bytes_of, on_each_disk, ways, written_back};
use crate::machine::{two_threads, vm};

const PAGE: usize = 4096;
const PAGES: usize = 1000;
const LEN_BYTES: u64 = (PAGES * PAGE) as u64;

/// How a file got its holes, and what makes one.
type Maker = (&'static str, fn(&Path));

const MAKERS: [Maker; 4] = [
    ("never written", never_written),
    ("punched", punched),
    ("reserved", reserved),
    ("written as zeros", written_as_zeros),
];

// spec: MEM-06
#[test]
fn holes_of_every_make_are_read_as_zeros_and_written_as_holes() {
    on_each_disk(|disk| {
        for (make, write) in MAKERS {
            let path = disk.root().join("raw");
            write(&path);
            // Also while the bytes are still in the page cache, where hints have lied.
            for is_written_back in [false, true] {
                if is_written_back {
                    written_back(&path);
                }
                let expected = fs::read(&path).unwrap();
                assert_eq!(expected.len(), PAGES * PAGE);
                let ways = ways(disk).filter(|way| !is_written_back || *way == Way::default());
                for way in ways {
                    let place = format!("{}, {make}, {way}", disk.name());
                    let id = import(&*backend(disk), disk_sink(disk, way));
                    let image = super::image(disk, id);
                    assert!(bytes_of(&image) == expected, "{place}: another image");
                    fs::remove_dir_all(disk.root().join(id.to_string())).unwrap();
                    if way == Way::default() {
                        assert_restored(disk, &image, &expected, &place);
                    }
                }
            }
            fs::remove_file(&path).unwrap();
        }
    });
}

// spec: MEM-06
#[test]
fn lies_about_holes_change_nothing() {
    let lies = [
        HoleHints::Honest,
        HoleHints::Unknown,
        HoleHints::AllData,
        HoleHints::Unaligned,
        HoleHints::Late,
        HoleHints::AllHole,
    ];
    for lie in lies {
        let tree = MemBackend::new();
        let path = raw_name();
        let mut file = tree.create(&path).unwrap();
        file.set_len(LEN_BYTES).unwrap();
        for page in written_pages() {
            let bytes = page_bytes(page);
            file.write_all_at((page * PAGE) as u64, &bytes).unwrap();
        }
        drop(file);
        tree.set_hole_hints(lie);
        for way in Way::ALL {
            let sink = DirectorySink::new(std::sync::Arc::new(tree.clone()), vm(), Arch::host());
            let id = import(&tree, sink.with_capture(two_threads(way)));
            let published = PublishedSnapshot::open(&tree, id).unwrap();
            let image = published.image(&tree).unwrap();
            assert!(
                bytes_of(&image) == memory(),
                "{lie:?}, {way}: another image"
            );
        }
    }
}

/// Takes a snapshot of the raw file.
fn import(backend: &dyn Backend, mut sink: DirectorySink) -> SnapshotId {
    let layout = MemoryLayout::single(LEN_BYTES).unwrap();
    let source = RawFile::image(backend.open(&raw_name()).unwrap(), layout).unwrap();
    let mut staged = sink.begin().unwrap();
    staged
        .memory(&source, Pages::Full, Stability::Running)
        .unwrap();
    staged.seal().unwrap().publish().unwrap().snapshot.id
}

fn disk_sink(disk: &Disk, way: Way) -> DirectorySink {
    super::sink(disk, two_threads(way))
}

/// Writes the image out, and looks at bytes and blocks of the file.
fn assert_restored(disk: &Disk, image: &MemoryImage, expected: &[u8], place: &str) {
    let name = RelPath::root().join("restored").unwrap();
    let mut target = backend(disk).create(&name).unwrap();
    let whole = image.write_raw(&mut *target, "restored", &mut |_| ControlFlow::Continue(()));
    assert!(whole.unwrap(), "{place}");
    drop(target);
    let path = disk.root().join("restored");
    assert!(
        fs::read(&path).unwrap() == expected,
        "{place}: restored otherwise"
    );
    let nonzero = expected
        .chunks(PAGE)
        .filter(|page| page.iter().any(|byte| *byte != 0));
    let stored = (nonzero.count() * PAGE) as u64;
    let allocated = allocated_bytes(&written_back(&path));
    assert!(
        allocated <= stored + SLACK_BYTES,
        "{place}: {allocated} bytes on the disk for {stored}"
    );
    fs::remove_file(path).unwrap();
}

fn never_written(path: &Path) {
    let file = File::create(path).unwrap();
    file.set_len(LEN_BYTES).unwrap();
    write_pages(&file);
}

fn punched(path: &Path) {
    fs::write(path, vec![0xEE; PAGES * PAGE]).unwrap();
    let file = File::options().write(true).open(path).unwrap();
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let len = i64::try_from(LEN_BYTES).unwrap();
    fallocate(file.as_fd(), flags, 0, len).unwrap();
    write_pages(&file);
    // Within pages too: the rest of them stays.
    fallocate(file.as_fd(), flags, 700 * 4096 + 100, 5000).unwrap();
}

fn reserved(path: &Path) {
    let file = File::create(path).unwrap();
    let len = i64::try_from(LEN_BYTES).unwrap();
    fallocate(file.as_fd(), FallocateFlags::empty(), 0, len).unwrap();
    write_pages(&file);
}

fn written_as_zeros(path: &Path) {
    fs::write(path, memory()).unwrap();
}

fn write_pages(file: &File) {
    for page in written_pages() {
        let bytes = page_bytes(page);
        file.write_all_at(&bytes, (page * PAGE) as u64).unwrap();
    }
}

/// Single pages, runs, the first and the last one.
fn written_pages() -> impl Iterator<Item = usize> {
    (0..PAGES).filter(|page| page % 97 == 0 || (300..420).contains(page) || page + 1 == PAGES)
}

/// Mostly zero: one byte tells a page from a hole.
fn page_bytes(page: usize) -> Vec<u8> {
    let mut bytes = vec![0; PAGE];
    bytes[page * 31 % PAGE] = u8::try_from(1 + page % 200).unwrap();
    bytes
}

fn memory() -> Vec<u8> {
    let mut memory = vec![0; PAGES * PAGE];
    for page in written_pages() {
        memory[page * PAGE..][..PAGE].copy_from_slice(&page_bytes(page));
    }
    memory
}

fn raw_name() -> RelPath {
    RelPath::root().join("raw").unwrap()
}
