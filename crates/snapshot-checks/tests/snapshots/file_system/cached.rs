//! Materialised images, whose blocks are shared where the file system can.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, chown};

use snapshot_checks::mount::Disk;
use snapshot_format::{MemoryLayout, PAGE_BYTES, PageRange, SnapshotRef};
use snapshot_memory::{
    CaptureControl, DirtyBitmap, MappedMemory, MappingOptions, Pages, Stability,
};
use snapshot_store::{ErrorKind, NewSnapshot, OpenOptions, Selection, Store, StoreError};

use super::full::fill;
use super::{backend, on_each_disk};
use crate::machine::vm;

/// Pages of the guest: much more than a file system takes for its maps of extents.
const PAGES: u64 = 6144;

/// The pages that the diff holds, one in so many.
const OWN: usize = 512;

fn shares(disk: &Disk) -> bool {
    ["xfs", "btrfs"].contains(&disk.name())
}

/// A store with a full snapshot and a diff of it, and the memory of both.
fn chain(disk: &Disk) -> (Store, [(SnapshotRef, Vec<u8>); 2]) {
    let store = Store::open_or_create(backend(disk), &OpenOptions::default()).unwrap();
    let layout = MemoryLayout::single(PAGES * PAGE_BYTES).unwrap();
    let guest = MappedMemory::new(layout, MappingOptions::default()).unwrap();
    // A hole in the middle of it.
    for page in (0..PAGES).filter(|page| !(3000..3100).contains(page)) {
        let bytes = [u8::try_from(page % 251).unwrap() + 1; 4096];
        guest.write(page * PAGE_BYTES, &bytes).unwrap();
    }
    let take = |pages: Pages<'_>, parent| {
        let mut stage = store
            .sink(NewSnapshot::of(vm()).parent(parent))
            .stage()
            .unwrap();
        stage.memory(&guest, pages, Stability::Paused).unwrap();
        let taken = stage.seal().unwrap().publish().unwrap().snapshot;
        let mut bytes = vec![0; guest.len_bytes()];
        guest.read(0, &mut bytes).unwrap();
        (taken, bytes)
    };
    let base = take(Pages::Full, None);
    let dirty = DirtyBitmap::new(PAGES);
    for page in (0..PAGES).step_by(OWN) {
        guest.write(page * PAGE_BYTES, &[0xee; 4096]).unwrap();
        dirty.set_range(PageRange::new(page, 1));
    }
    let pages = Pages::Since {
        base: base.0,
        dirty: &dirty,
    };
    let diff = take(pages, Some(base.0));
    // Blocks that are not written back yet are nobody's.
    flush(disk);
    (store, [base, diff])
}

fn flush(disk: &Disk) {
    nix::unistd::syncfs(File::open(disk.root()).unwrap()).unwrap();
}

fn free_bytes(disk: &Disk) -> u64 {
    flush(disk);
    backend(disk).free_bytes().unwrap()
}

// spec: CAC-05
#[test]
fn images_share_blocks_on_file_systems_that_can_and_are_copies_on_the_others() {
    on_each_disk(|disk| {
        let (store, snapshots) = chain(disk);
        for (snapshot, memory) in &snapshots {
            let place = format!("{}, {}", disk.name(), snapshot.id);
            let free = free_bytes(disk);
            let report = store.warm(snapshot.id, &CaptureControl::default()).unwrap();
            let taken = free.saturating_sub(free_bytes(disk));
            let data = memory
                .chunks(4096)
                .filter(|page| page.iter().any(|byte| *byte != 0));
            let data_bytes = data.count() as u64 * PAGE_BYTES;
            let all = report.shared_bytes + report.copied_bytes;
            assert_eq!(all, data_bytes, "{place}: {report:?}");
            if shares(disk) {
                assert!(
                    report.copied_bytes <= data_bytes / 16,
                    "{place}: {report:?}"
                );
                assert!(
                    taken < data_bytes / 2,
                    "{place}: {taken} bytes of {data_bytes}"
                );
            } else {
                assert_eq!(report.shared_bytes, 0, "{place}");
                assert!(
                    taken >= data_bytes / 2,
                    "{place}: {taken} bytes of {data_bytes}"
                );
            }
            let path = disk.root().join(&report.file);
            assert!(fs::read(&path).unwrap() == *memory, "{place}: other bytes");
            let found = fs::metadata(&path).unwrap();
            assert_eq!((found.mode() & 0o777, found.nlink()), (0o400, 1), "{place}");
        }
        let verified = store.verify(Selection::All, &mut |_| std::ops::ControlFlow::Continue(()));
        assert!(verified.unwrap().ok, "{}", disk.name());
        // What is shared stays with whoever is left.
        let (base, _) = &snapshots[0];
        let (diff, memory) = &snapshots[1];
        assert!(store.drop_cached(diff.id).unwrap());
        store.delete(&store.plan_delete(base.id).unwrap()).unwrap();
        assert_eq!(store.usage().unwrap().cache_bytes, 0);
        let report = store.warm(diff.id, &CaptureControl::default()).unwrap();
        let bytes = fs::read(disk.root().join(report.file)).unwrap();
        assert!(bytes == *memory, "{}: over the trash", disk.name());
    });
}

// spec: CAC-06
#[test]
fn an_image_that_shares_fits_where_a_copy_does_not() {
    on_each_disk(|disk| {
        let (store, [_, (diff, memory)]) = chain(disk);
        let ballast = fill(disk);
        let built = store.warm(diff.id, &CaptureControl::default());
        if shares(disk) {
            let report = built.unwrap();
            let bytes = fs::read(disk.root().join(report.file)).unwrap();
            assert!(bytes == memory, "{}", disk.name());
            return;
        }
        let error = built.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{}: {error}", disk.name());
        assert!(matches!(error, StoreError::NoRoom { .. }), "{error:?}");
        let left = fs::read_dir(disk.root().join("cache")).unwrap().count();
        assert_eq!(left, 0, "{}", disk.name());
        drop(ballast);
    });
}

// spec: CAC-02
#[test]
fn an_image_of_another_user_is_not_opened() {
    on_each_disk(|disk| {
        let (store, [(base, memory), _]) = chain(disk);
        let report = store.warm(base.id, &CaptureControl::default()).unwrap();
        let path = disk.root().join(report.file);
        chown(&path, Some(4321), None).unwrap();
        let refused = store.cached_image(base.id).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Corrupt, "{refused}");
        let again = store.warm(base.id, &CaptureControl::default());
        assert_eq!(again.unwrap_err().kind(), ErrorKind::Corrupt);
        // It is dropped like any other.
        assert!(store.drop_cached(base.id).unwrap());
        assert!(
            store
                .warm(base.id, &CaptureControl::default())
                .unwrap()
                .built
        );
        assert!(fs::read(&path).unwrap() == memory, "{}", disk.name());
    });
}
