//! Writes, harvests, and both at once.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;

use snapshot_format::{LEAF_PAGES, MemoryLayout, PAGE_BYTES, PageIndex};

use super::DirtyRig;
use super::promise::Promise;
use crate::dirty::{DirtyBitmap, DirtyGuarantee, DirtySource};

/// Everything that is asked of one source and memory that stays as it is.
pub(super) fn check(source: &mut dyn DirtySource, rig: &mut dyn DirtyRig) {
    let name = source.name();
    start(source);
    // What was written before the first harvest may be named or not; then the slate is clean.
    harvest(source);
    check_clean(source, "pages that nobody wrote are dirty");
    check_boundaries(source, rig);
    check_or(source, rig);
    check_concurrent(source, rig);
    for threads in [1, 2, 3] {
        check_peeks(
            source,
            rig,
            NonZeroUsize::new(threads).unwrap_or(NonZeroUsize::MIN),
        );
    }
    for _ in 0..2 {
        let stopped = source.stop();
        assert!(stopped.is_ok(), "{name}: stop failed: {stopped:?}");
        start(source);
        harvest(source);
        let last = source.layout().page_count() - 1;
        check_writes(source, rig, &[last]);
    }
    let stopped = source.stop();
    assert!(stopped.is_ok(), "{name}: stop failed: {stopped:?}");
}

/// The pages where something begins or ends.
pub(super) fn boundaries(layout: &MemoryLayout, granule_bytes: u64) -> Vec<u64> {
    let mut pages = BTreeSet::new();
    let granule = granule_bytes / PAGE_BYTES;
    let mut first = 0;
    for region in layout.regions() {
        let count = region.len_bytes / PAGE_BYTES;
        pages.extend([first, first + count / 2, first + count - 1]);
        for step in [granule, 64, 512, LEAF_PAGES as u64] {
            // In the guest, in the region, and in the image: each is somebody's unit.
            let guest = region.start.page().0;
            let starts = [guest.next_multiple_of(step) - guest, step];
            let image = first.next_multiple_of(step) - first;
            let inner = starts.into_iter().chain([image]);
            let inner = inner.filter(|page| (1..count).contains(page));
            pages.extend(inner.flat_map(|page| [first + page - 1, first + page]));
        }
        first += count;
    }
    pages.into_iter().collect()
}

fn check_boundaries(source: &mut dyn DirtySource, rig: &mut dyn DirtyRig) {
    let pages = boundaries(source.layout(), source.granule_bytes());
    // One at a time, so that no write stands in for another.
    for &page in &pages {
        for byte in [0, PAGE - 1] {
            rig.write(PageIndex(page), byte);
            let found = harvest(source);
            Promise::of(source).check(source.layout(), &found, &[page]);
        }
    }
    // All at once; and again, because a harvest arms the source for the next write.
    check_writes(source, rig, &pages);
    check_writes(source, rig, &pages);
}

fn check_writes(source: &mut dyn DirtySource, rig: &mut dyn DirtyRig, pages: &[u64]) {
    for &page in pages {
        rig.write(PageIndex(page), 1);
    }
    let found = harvest(source);
    Promise::of(source).check(source.layout(), &found, pages);
    check_clean(source, "a harvest must clear the bits");
}

/// Several writes to one page are one bit, and a harvest ORs into what is there.
fn check_or(source: &mut dyn DirtySource, rig: &mut dyn DirtyRig) {
    let last = PageIndex(source.layout().page_count() - 1);
    rig.write(PageIndex(0), 0);
    rig.write(PageIndex(0), 0);
    let into = DirtyBitmap::new(source.layout().page_count());
    into.set(last);
    let result = source.harvest(&into);
    assert!(
        result.is_ok() && into.is_set(PageIndex(0)) && into.is_set(last),
        "{}: a harvest must OR into the bitmap: {into:?}, {result:?}",
        source.name()
    );
}

/// Nothing is lost between two harvests, whenever it was written.
fn check_concurrent(source: &mut dyn DirtySource, rig: &mut dyn DirtyRig) {
    let count = source.layout().page_count();
    let mut pages: Vec<u64> = (0..count).step_by(CONCURRENT_STEP).collect();
    pages.truncate(CONCURRENT_PAGES);
    let indices: Vec<_> = pages.iter().copied().map(PageIndex).collect();
    for _ in 0..CONCURRENT_ROUNDS {
        let found = DirtyBitmap::new(count);
        rig.write_during(&indices, &mut || found.or_from(&harvest(source)));
        found.or_from(&harvest(source));
        Promise::of(source).check(source.layout(), &found, &pages);
    }
}

/// A peek names what was written since the last harvest or peek, and takes nothing from the next
/// harvest that is written after it.
fn check_peeks(source: &mut dyn DirtySource, rig: &mut dyn DirtyRig, threads: NonZeroUsize) {
    harvest(source);
    let ready = source.make_ready(threads);
    assert!(
        ready.is_ok(),
        "{}: not ready for a peek: {ready:?}",
        source.name()
    );
    let pages = boundaries(source.layout(), source.granule_bytes());
    let (first, second) = pages.split_at(pages.len() / 2);
    for written in [first, second] {
        for &page in written {
            rig.write(PageIndex(page), 3);
        }
        let found = peek(source);
        check_among(source, &found, written, &pages);
    }
    // Written before the last peek, and again after it.
    for &page in first {
        rig.write(PageIndex(page), 4);
    }
    source.rest();
    let found = harvest(source);
    check_among(source, &found, first, &pages);
    check_clean(source, "a harvest must clear what was peeked at");
    check_writes(source, rig, &pages);
}

/// All of `due` was found; and of an exact source nothing but `all`.
fn check_among(source: &dyn DirtySource, found: &DirtyBitmap, due: &[u64], all: &[u64]) {
    let promise = Promise::of(source);
    let named = promise.named(source.layout(), all);
    for &page in due {
        let page = PageIndex(page);
        assert!(
            found.is_set(page),
            "{}: {page:?} was written",
            source.name()
        );
    }
    if source.guarantee() == DirtyGuarantee::Exact {
        named.or_from(found);
        assert_eq!(
            named,
            promise.named(source.layout(), all),
            "{}: pages that nobody wrote",
            source.name()
        );
    }
}

fn peek(source: &mut dyn DirtySource) -> DirtyBitmap {
    let into = DirtyBitmap::new(source.layout().page_count());
    let result = source.peek(&into);
    assert!(result.is_ok(), "{}: peek failed: {result:?}", source.name());
    into
}

fn harvest(source: &mut dyn DirtySource) -> DirtyBitmap {
    let into = DirtyBitmap::new(source.layout().page_count());
    let result = source.harvest(&into);
    assert!(
        result.is_ok(),
        "{}: harvest failed: {result:?}",
        source.name()
    );
    into
}

fn check_clean(source: &mut dyn DirtySource, promise: &str) {
    if source.guarantee() == DirtyGuarantee::Exact {
        let found = harvest(source);
        assert!(found.is_clean(), "{}: {promise}: {found:?}", source.name());
    }
}

fn start(source: &mut dyn DirtySource) {
    let result = source.start();
    assert!(
        result.is_ok(),
        "{}: start failed: {result:?}",
        source.name()
    );
}

#[expect(clippy::cast_possible_truncation, reason = "4096")]
const PAGE: usize = PAGE_BYTES as usize;

/// Pages that a writer goes through while harvests run, and how often.
const CONCURRENT_PAGES: usize = 200;
const CONCURRENT_STEP: usize = 3;
const CONCURRENT_ROUNDS: usize = 3;
