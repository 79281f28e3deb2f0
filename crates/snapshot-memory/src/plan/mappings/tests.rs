use snapshot_format::{GuestAddress, MemoryRegion};

use super::*;
use crate::capture::LayoutChoice;
use crate::plan::tests::rig::{Chain, bytes_of};
use crate::source::GuestMemorySource;

fn range(start: u64, count: u64) -> PageRange {
    PageRange::new(start, count)
}

fn runs(image: &MemoryImage, limit: usize) -> Vec<FileRun> {
    match Mappable::of(image, limit).unwrap() {
        Mappable::Runs(runs) => runs,
        other => unreachable!("{other:?}"),
    }
}

/// What a guest sees that has these runs mapped, and zero between them.
fn seen(chain: &Chain, image: &MemoryImage, runs: &[FileRun]) -> Vec<u8> {
    let mut bytes = vec![0; image.layout().len_bytes() as usize];
    let files: Vec<_> = (0..image.files().len())
        .map(|place| std::fs::read(chain.data_path(place)).unwrap())
        .collect();
    for run in runs {
        let file = &files[usize::from(run.file) - 1];
        let (to, len) = (
            (run.pages.start.0 * PAGE_BYTES) as usize,
            (run.pages.count * PAGE_BYTES) as usize,
        );
        let from = run.offset as usize;
        bytes[to..to + len].copy_from_slice(&file[from..from + len]);
    }
    bytes
}

// spec: RPL-08
#[test]
fn a_full_snapshot_is_one_mapping_whatever_lies_in_it() {
    let mut chain = Chain::of_pages(400);
    for page in (0..400).step_by(3) {
        chain.write(range(page, 1), 1);
    }
    chain.take(None, LayoutChoice::Sparse);
    let image = chain.image();
    assert!(!Mappable::needs_map(&image).unwrap());
    let runs = runs(&image, MAX_MAPPINGS);
    assert_eq!(runs.len(), 1);
    assert!(seen(&chain, &image, &runs) == chain.bytes());
}

// spec: RPL-08
#[test]
fn runs_of_a_chain_show_the_same_memory() {
    let mut chain = Chain::of_pages(600);
    chain.write(range(0, 500), 1);
    chain.take(None, LayoutChoice::Sparse);
    chain.write(range(40, 10), 2);
    chain.memory.write(60 * PAGE_BYTES, &[0; 4096]).unwrap();
    chain.take(Some(&[range(40, 10), range(60, 1)]), LayoutChoice::Packed);
    chain.write(range(42, 2), 3);
    chain.write(range(550, 1), 3);
    chain.take(Some(&[range(42, 2), range(550, 1)]), LayoutChoice::Sparse);
    let image = chain.image();
    let found = runs(&image, MAX_MAPPINGS);
    assert!(seen(&chain, &image, &found) == chain.bytes());
    // The zero page was present in the first file: it must not be mapped along.
    assert!(
        found
            .iter()
            .all(|run| { run.file != 1 || !(run.pages.start.0..run.pages.end().0).contains(&60) })
    );
    assert!(bytes_of(&image) == chain.bytes());
}

// spec: RPL-08
#[test]
fn short_runs_of_zero_are_mapped_along_where_the_file_has_zeros() {
    let mut chain = Chain::of_pages(3000);
    // Every second page, and a long gap.
    for page in (0..400).step_by(2).chain((1400..1800).step_by(2)) {
        chain.write(range(page, 1), 1);
    }
    chain.take(None, LayoutChoice::Sparse);
    chain.write(range(2999, 1), 2);
    chain.take(Some(&[range(2999, 1)]), LayoutChoice::Packed);
    let image = chain.image();
    assert!(Mappable::needs_map(&image).unwrap());
    let found = runs(&image, MAX_MAPPINGS);
    let pages: Vec<_> = found.iter().map(|run| (run.file, run.pages)).collect();
    assert_eq!(
        pages,
        [
            (1, range(0, 399)),
            (1, range(1400, 399)),
            (2, range(2999, 1))
        ]
    );
    assert!(seen(&chain, &image, &found) == chain.bytes());
}

// spec: RPL-07
#[test]
fn thousands_of_small_runs_are_too_many_and_counting_stops() {
    let mut chain = Chain::of_pages(8000);
    chain.write(range(0, 8000), 1);
    chain.take(None, LayoutChoice::Sparse);
    let dirty: Vec<_> = (0..8000).step_by(2).map(|page| range(page, 1)).collect();
    chain.write(range(0, 8000), 2);
    for page in (1..8000).step_by(2) {
        chain.write(range(page, 1), 1);
    }
    chain.take(Some(&dirty), LayoutChoice::Packed);
    let image = chain.image();
    assert_eq!(
        Mappable::of(&image, MAX_MAPPINGS).unwrap(),
        Mappable::TooMany
    );
    // With room for all of them they are right.
    let found = runs(&image, 8000);
    assert_eq!(found.len(), 8000);
    assert!(seen(&chain, &image, &found) == chain.bytes());
}

#[test]
fn memory_of_several_regions_is_mapped_by_its_place_in_the_image() {
    let region = |page: u64, count: u64| MemoryRegion {
        start: GuestAddress(page * PAGE_BYTES),
        len_bytes: count * PAGE_BYTES,
    };
    let layout = MemoryLayout::new(vec![region(0, 10), region(30, 20)]).unwrap();
    let mut chain = Chain::new(layout);
    chain.write(range(0, 30), 1);
    chain.take(None, LayoutChoice::Sparse);
    chain.write(range(8, 4), 2);
    chain.take(Some(&[range(8, 4)]), LayoutChoice::Sparse);
    let image = chain.image();
    let found = runs(&image, MAX_MAPPINGS);
    assert_eq!(found.len(), 3);
    assert_eq!(chain.memory.layout(), image.layout());
    assert!(seen(&chain, &image, &found) == chain.bytes());
}
