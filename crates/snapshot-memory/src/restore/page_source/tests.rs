use std::sync::Arc;

use snapshot_format::{Arch, PAGE_BYTES, VmName};

use super::*;
use crate::backend::MemBackend;
use crate::{
    DirectorySink, MappedMemory, MappingOptions, Pages, PublishedSnapshot, SnapshotSink, Stability,
};

/// An image of 12 pages, of which 3, 4, 5 and 9 are not zero.
fn image() -> MemoryImage {
    let backend = Arc::new(MemBackend::new());
    let layout = MemoryLayout::single(12 * PAGE_BYTES).unwrap();
    let memory = MappedMemory::new(layout, MappingOptions::default()).unwrap();
    for page in [3, 4, 5, 9] {
        memory.write(page * PAGE_BYTES, b"some").unwrap();
    }
    let vm = VmName::new("vm").unwrap();
    let mut sink = DirectorySink::new(backend.clone(), vm, Arch::host());
    let mut staged = sink.begin().unwrap();
    staged
        .memory(&memory, Pages::Full, Stability::Paused)
        .unwrap();
    let published = staged.seal().unwrap().publish().unwrap();
    let found = PublishedSnapshot::open(&*backend, published.snapshot.id).unwrap();
    found.image(&*backend).unwrap()
}

fn run(source: &dyn PageSource, start: u64, count: u64) -> (u64, bool) {
    let run = source.run(PageRange::new(start, count)).unwrap();
    (run.count, run.is_zero)
}

#[test]
fn an_image_says_which_runs_are_zero_and_cuts_them_to_what_was_asked() {
    let image = image();
    assert_eq!(run(&image, 0, 12), (3, true));
    assert_eq!(run(&image, 1, 1), (1, true));
    assert_eq!(run(&image, 3, 9), (3, false));
    assert_eq!(run(&image, 4, 1), (1, false));
    assert_eq!(run(&image, 10, 2), (2, true));
}

#[test]
fn an_empty_range_and_one_beyond_the_image_are_refused() {
    let image = image();
    for (start, count) in [(0, 0), (11, 2), (u64::MAX, 2)] {
        let refused = PageSource::run(&image, PageRange::new(start, count));
        let is_range = matches!(
            refused,
            Err(SourceError::Image(ImageError::OutOfRange { .. }))
        );
        assert!(is_range, "{start} {count}: {refused:?}");
    }
}
