//! Disks that really fill.

use std::fs::File;
use std::os::fd::AsFd;

use snapshot_checks::Way;
use snapshot_checks::mount::Disk;
use snapshot_memory::{SinkError, Stability};

use super::{backend, bytes_of, image, on_each_disk, sink, ways};
use crate::machine::{Machine, two_threads};

/// What is left free: less than the second snapshot takes, more than the file system keeps back.
const FREE_BYTES: u64 = 6 << 20;

/// A guest of 17 MiB, of which the first snapshot holds little.
const PAGES: [u64; 2] = [4096, 340];

#[test]
fn a_full_disk_is_an_error_that_leaves_what_was_there() {
    on_each_disk(|disk| {
        let machine = Machine::new(PAGES);
        machine.clear(|page| page > 50);
        let mut first = sink(disk, two_threads(Way::default()));
        let epoch = machine.epoch();
        let (published, _) = machine.take(&mut first, &epoch, Stability::Paused).unwrap();
        epoch.commit(published.snapshot).unwrap();
        let before = machine.image();
        machine.run(2, |page| page % 8 != 0);
        let dirty = machine.dirty();
        let ballast = fill(disk);
        for way in ways(disk) {
            let place = format!("{}, {way}", disk.name());
            let sink = sink(disk, two_threads(way));
            let mut sink = sink.with_parent(published.snapshot.id).unwrap();
            let epoch = machine.epoch();
            let failure = machine.take(&mut sink, &epoch, Stability::Running);
            drop(epoch);
            let failure = failure.unwrap_err();
            let error = failure.not_committed();
            let is_typed = matches!(error, Some(SinkError::File(error)) if error.is_no_space());
            assert!(is_typed, "{place}: {}", failure.text());
            assert_eq!(machine.dirty(), dirty, "{place}");
            let names: Vec<String> = backend(disk)
                .list(&snapshot_memory::backend::RelPath::root())
                .unwrap()
                .into_iter()
                .map(|entry| entry.name)
                .filter(|name| !["ballast", "lost+found"].contains(&name.as_str()))
                .collect();
            assert_eq!(names, [published.snapshot.id.to_string()], "{place}");
            let first = bytes_of(&image(disk, published.snapshot.id));
            assert!(first == before, "{place}: the first snapshot has changed");
        }
        drop(ballast);
        std::fs::remove_file(disk.root().join("ballast")).unwrap();
        // Some file systems give blocks back only with the next commit.
        nix::unistd::syncfs(File::open(disk.root()).unwrap()).unwrap();
        let options = two_threads(Way::default());
        let mut sink = sink(disk, options)
            .with_parent(published.snapshot.id)
            .unwrap();
        let epoch = machine.epoch();
        let second = machine.take(&mut sink, &epoch, Stability::Running);
        assert!(second.is_ok(), "{}, with room: {second:?}", disk.name());
        let (second, _) = second.unwrap();
        assert!(bytes_of(&image(disk, second.snapshot.id)) == machine.image());
    });
}

/// Takes all but a little of the free space.
pub(super) fn fill(disk: &Disk) -> File {
    let ballast = File::create(disk.root().join("ballast")).unwrap();
    let free = backend(disk).free_bytes().unwrap();
    let len = i64::try_from(free.saturating_sub(FREE_BYTES)).unwrap();
    let flags = nix::fcntl::FallocateFlags::empty();
    nix::fcntl::fallocate(ballast.as_fd(), flags, 0, len).unwrap();
    ballast.sync_all().unwrap();
    ballast
}
