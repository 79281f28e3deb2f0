//! What is left out, and what is added, by choice.

use std::sync::Arc;

use snapshot_format::{PAGE_BYTES, PageIndex, PageRange};

use crate::backend::{FsBackend, MemBackend};
use crate::capture::rig::{Chain, PAGE, bytes_of, layout, mapped};
use crate::capture::writer::*;
use crate::capture::{Dedup, LayoutChoice};
use crate::dirty::DirtyBitmap;
use crate::mapping::{MappedMemory, MappingOptions};
use crate::skip::skip;
use crate::uffd::{Backing, backing};

/// 80 MiB: a guest that the cost model does not call small.
const PAGES: u64 = 20_480;

fn chain() -> (MappedMemory, Chain) {
    let memory = mapped(&layout(&[(0, PAGES)]));
    for page in 0..PAGES {
        let value = 1 + (page % 251) as u8;
        memory.write(page * PAGE_BYTES, &[value; PAGE]).unwrap();
    }
    let mut chain = Chain::new(Arc::new(MemBackend::new()));
    chain.take(&memory, None, Stability::Paused).unwrap();
    (memory, chain)
}

// spec: INH-01
#[test]
fn pages_as_in_the_parent_are_inherited_and_not_written() {
    let (memory, mut chain) = chain();
    // Dirty, with the bytes of the parent; one page differs.
    let dirty = DirtyBitmap::new(PAGES);
    dirty.set_range(PageRange::new(100, 600));
    memory.write(400 * PAGE_BYTES, &[0xEE; PAGE]).unwrap();
    chain.options = CaptureOptions::default().dedup(Dedup::Compare);
    let stats = chain
        .take(&memory, Some(&dirty), Stability::Paused)
        .unwrap()
        .stats;
    assert_eq!(
        (stats.present, stats.zero, stats.inherited),
        (1, 0, PAGES - 1)
    );
    assert_eq!(stats.allocated_bytes, PAGE_BYTES);
    assert!(bytes_of(&chain.image(1)) == bytes_of(&memory));
    // The parent digests units of 16 pages, the diff single ones: only those are compared now.
    chain.options = CaptureOptions::default().dedup(Dedup::Digest);
    let dirty = DirtyBitmap::new(PAGES);
    dirty.set_range(PageRange::new(400, 2));
    let stats = chain
        .take(&memory, Some(&dirty), Stability::Paused)
        .unwrap()
        .stats;
    assert_eq!((stats.present, stats.inherited), (1, PAGES - 1));
    chain.assert_sound();
}

// spec: CST-04
#[test]
fn a_diff_of_nearly_all_pages_becomes_a_full_snapshot() {
    let (memory, mut chain) = chain();
    let dirty = DirtyBitmap::all_set(PAGES);
    let written = chain
        .take(&memory, Some(&dirty), Stability::Paused)
        .unwrap();
    assert_eq!(written.stats.inherited, 0);
    assert_eq!(written.dependencies.len(), 1, "it depends on itself alone");
    assert!(bytes_of(&chain.image(1)) == bytes_of(&memory));
}

// spec: CST-08
#[test]
fn a_gap_of_clean_pages_is_filled_where_that_costs_less_than_an_extent() {
    let (memory, mut chain) = chain();
    let dirty = DirtyBitmap::new(PAGES);
    [10, 12, 14, 40]
        .iter()
        .for_each(|&page| dirty.set(PageIndex(page)));
    chain.options = CaptureOptions::default().layout(LayoutChoice::Sparse);
    let stats = chain
        .take(&memory, Some(&dirty), Stability::Paused)
        .unwrap()
        .stats;
    // On ext4, which is assumed, an extent costs 9 us and a page 2: gaps of two pages are filled.
    assert_eq!((stats.present, stats.inherited), (6, PAGES - 6));
    let stats = chain
        .take(&memory, Some(&dirty), Stability::Running)
        .unwrap()
        .stats;
    assert_eq!(stats.present, 4, "memory that runs may differ in the gap");
    assert!(bytes_of(&chain.image(2)) == bytes_of(&memory));
}

// spec: MEM-03
#[test]
fn memory_that_runs_is_never_written_from_where_it_is() {
    let (memory, _) = chain();
    for (stability, expected) in [
        (Stability::Paused, Engine::Vectored),
        (Stability::Running, Engine::Buffered),
    ] {
        let mut chain = Chain::new(Arc::new(MemBackend::new()));
        chain.options = CaptureOptions::default().engine(EngineChoice::Vectored);
        let stats = chain.take(&memory, None, stability).unwrap().stats;
        assert_eq!(stats.engine, expected);
        assert!(bytes_of(&chain.image(0)) == bytes_of(&memory));
    }
}

#[test]
fn memory_on_huge_pages_goes_to_the_device_from_where_it_is() {
    let options = MappingOptions::default().huge_pages(true);
    let memory = MappedMemory::new(layout(&[(0, PAGES)]), options).unwrap();
    for page in 0..PAGES {
        let value = 1 + (page % 251) as u8;
        memory.write(page * PAGE_BYTES, &[value; PAGE]).unwrap();
    }
    if backing(&memory) != Backing::Huge {
        return skip("huge-pages", "this kernel gave the guest none");
    }
    let (options, model) = (CaptureOptions::default(), CostModel::default());
    let choose = |pages, stability| Choice::new(&options, &model, &memory, pages, stability);
    assert!(choose(Pages::Full, Stability::Paused).in_place);
    assert!(!choose(Pages::Full, Stability::Running).in_place);
    let scattered = DirtyBitmap::new(PAGES);
    (0..PAGES / 8).for_each(|n| scattered.set(PageIndex(8 * n)));
    let since = Pages::Since {
        base: Chain::reference(0),
        dirty: &scattered,
    };
    assert!(!choose(since, Stability::Paused).in_place);

    let dir = tempfile::tempdir().unwrap();
    let mut chain = Chain::new(Arc::new(FsBackend::open(dir.path()).unwrap()));
    chain.take(&memory, None, Stability::Paused).unwrap();
    assert!(bytes_of(&chain.image(0)) == bytes_of(&memory));
    chain.assert_sound();
}
