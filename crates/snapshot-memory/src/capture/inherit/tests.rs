use std::sync::Arc;

use proptest::prelude::*;
use snapshot_format::MemoryLayout;

use super::*;
use crate::backend::MemBackend;
use crate::capture::rig::{Chain, fill, layout, mapped};
use crate::capture::{CaptureOptions, LayoutChoice};
use crate::mapping::MappedMemory;
use crate::source::{GuestMemorySource, Stability};

/// Guest memory, and the snapshots that were taken of it.
struct Guest {
    memory: MappedMemory,
    backend: Arc<MemBackend>,
    chain: Chain,
}

impl Guest {
    fn new(layout: &MemoryLayout) -> Self {
        let backend = Arc::new(MemBackend::new());
        Self {
            memory: mapped(layout),
            chain: Chain::new(backend.clone()),
            backend,
        }
    }

    fn fill(&self, pages: PageRange, value: u8) {
        fill(&self.memory, pages, value);
    }

    fn take(&mut self, dirty: Option<&DirtyBitmap>, layout: LayoutChoice, stability: Stability) {
        self.chain.options = CaptureOptions::default().layout(layout);
        self.chain.take(&self.memory, dirty, stability).unwrap();
    }

    fn page(&self, page: u64) -> Vec<u8> {
        let mut bytes = vec![0; PAGE];
        let range = PageRange::new(page, 1);
        self.memory.read_pages(range, &mut bytes).unwrap();
        bytes
    }
}

/// What is inherited of the dirty pages, found in chunks of so many.
fn same(
    guest: &Guest,
    dirty: &DirtyBitmap,
    dedup: Dedup,
    chunk_pages: usize,
) -> Result<Vec<u64>, SinkError> {
    let parent = guest.chain.newest();
    let layout = parent.layout();
    let mut inheritance = Inheritance::new(&parent, layout, dirty, dedup).unwrap();
    let pages: Vec<(PageIndex, Vec<u8>)> = pages_of(dirty)
        .map(|page| (PageIndex(page), guest.page(page)))
        .collect();
    let mut inherited = Vec::new();
    for chunk in pages.chunks(chunk_pages) {
        let candidates: Vec<Candidate<'_>> = chunk
            .iter()
            .map(|(image, bytes)| Candidate {
                guest: parent.layout().guest_page(*image).unwrap(),
                image: *image,
                bytes,
                digest: (!crate::zero::is_zero(bytes)).then(|| Digest::of(bytes)),
            })
            .collect();
        let same = inheritance.same_pages(&candidates)?;
        assert_eq!(same.len(), chunk.len());
        let same = chunk.iter().zip(same).filter(|(_, same)| **same);
        inherited.extend(same.map(|((page, _), _)| page.0));
    }
    Ok(inherited)
}

fn pages_of(dirty: &DirtyBitmap) -> impl Iterator<Item = u64> + '_ {
    dirty.iter_runs().flat_map(|run| run.start.0..run.end().0)
}

/// Runs of stored pages, in guest memory.
fn stored_runs(layout: &MemoryLayout, stored: impl Iterator<Item = u64>) -> usize {
    let guests: Vec<u64> = stored
        .map(|page| layout.guest_page(PageIndex(page)).unwrap().0)
        .collect();
    guests.chunk_by(|a, b| a + 1 == *b).count()
}

fn layouts() -> impl Strategy<Value = MemoryLayout> {
    prop::sample::select(vec![
        layout(&[(0, 300)]),
        layout(&[(3, 7), (12, 2), (40, 291)]),
        layout(&[(16_384 - 100, 300)]),
    ])
}

#[derive(Clone, Debug)]
struct Round {
    /// Runs of pages and the value that they get; 0 is zero.
    writes: Vec<(u64, u64, u8)>,
    packed: bool,
    paused: bool,
}

fn rounds() -> impl Strategy<Value = Vec<Round>> {
    let run = (0..300u64, 1..40u64, 0..4u8);
    let round = (
        prop::collection::vec(run, 0..12),
        any::<bool>(),
        any::<bool>(),
    );
    let round = round.prop_map(|(writes, packed, paused)| Round {
        writes,
        packed,
        paused,
    });
    prop::collection::vec(round, 2..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    // spec: INH-01
    // spec: INH-03
    // spec: INH-04
    #[test]
    fn what_is_inherited_is_the_parents_and_the_budget_holds(
        layout in layouts(),
        rounds in rounds(),
        touched in prop::collection::vec((0..300u64, 1..80u64), 0..8),
        chunk_pages in prop::sample::select(vec![7usize, 64, 200, 512]),
    ) {
        let mut guest = Guest::new(&layout);
        let pages = layout.page_count();
        let clip = |start: u64, count: u64| PageRange::new(start % pages, count.min(pages - start % pages));
        for (n, round) in rounds.iter().enumerate() {
            let dirty = DirtyBitmap::new(pages);
            for &(start, count, value) in &round.writes {
                guest.fill(clip(start, count), value);
                dirty.set_range(clip(start, count));
            }
            if n == rounds.len() - 1 {
                touched.iter().for_each(|&(start, count)| dirty.set_range(clip(start, count)));
                check(&guest, &dirty, chunk_pages)?;
                break;
            }
            let choice = [LayoutChoice::Sparse, LayoutChoice::Packed][usize::from(round.packed)];
            let stability = [Stability::Running, Stability::Paused][usize::from(round.paused)];
            guest.take((n > 0).then_some(&dirty), choice, stability);
        }
    }
}

fn check(guest: &Guest, dirty: &DirtyBitmap, chunk_pages: usize) -> Result<(), TestCaseError> {
    let parent = guest.chain.newest();
    let layout = parent.layout().clone();
    let equal = |page: u64| {
        let mut theirs = vec![0; PAGE];
        parent
            .read_pages(PageRange::new(page, 1), &mut theirs)
            .unwrap();
        theirs == guest.page(page)
    };
    let is_zero = |page: &u64| crate::zero::is_zero(&guest.page(*page));
    let by_digest = same(guest, dirty, Dedup::Digest, chunk_pages).unwrap();
    let by_bytes = same(guest, dirty, Dedup::Compare, chunk_pages).unwrap();
    for same in [&by_digest, &by_bytes] {
        prop_assert!(
            same.iter()
                .all(|&page| dirty.is_set(PageIndex(page)) && equal(page))
        );
        let taken: Vec<u64> = pages_of(dirty).collect();
        let allowed: usize = taken
            .chunks(chunk_pages)
            .map(|chunk| chunk.len() / 64)
            .sum();
        let stored = || taken.iter().copied().filter(|page| !is_zero(page));
        let kept = stored().filter(|page| !same.contains(page));
        let long = same.len() / LONG_RUN_PAGES;
        let (before, after) = (stored_runs(&layout, stored()), stored_runs(&layout, kept));
        prop_assert!(
            after <= before + allowed + long,
            "{before} runs became {after}"
        );
    }
    // Whatever is equal and does not lie within a run of stored pages is found.
    let guest_page = |page: u64| layout.guest_page(PageIndex(page)).unwrap().0;
    let is_next =
        |a: u64, b: u64| dirty.is_set(PageIndex(b)) && guest_page(a).abs_diff(guest_page(b)) == 1;
    for page in pages_of(dirty).filter(|&page| equal(page)) {
        let alone = page == 0 || !dirty.is_set(PageIndex(page - 1)) || !is_next(page, page - 1);
        if alone || is_zero(&page) {
            prop_assert!(by_bytes.contains(&page), "page {page} was not found");
        }
    }
    Ok(())
}

// spec: INH-03
#[test]
fn a_chunk_that_ends_with_a_region_has_no_neighbour_beyond_it() {
    let layout = layout(&[(3, 7), (12, 2), (40, 291)]);
    let mut guest = Guest::new(&layout);
    guest.fill(PageRange::new(0, 16), 1);
    guest.take(None, LayoutChoice::Sparse, Stability::Running);
    let dirty = DirtyBitmap::new(layout.page_count());
    dirty.set_range(PageRange::new(2, 15));
    // The first chunk ends with the second region, the next one begins with the third.
    check(&guest, &dirty, 7).unwrap();
}

/// A parent of `pages` pages of ones, whose units have one page where it was running.
fn ones(pages: u64, stability: Stability) -> (Guest, DirtyBitmap) {
    let mut guest = Guest::new(&layout(&[(0, pages)]));
    guest.fill(PageRange::new(0, pages), 1);
    guest.take(None, LayoutChoice::Sparse, stability);
    (guest, DirtyBitmap::all_set(pages))
}

// spec: INH-02
#[test]
fn only_a_comparison_reads_what_has_no_digest_of_its_own() {
    let (guest, dirty) = ones(64, Stability::Paused);
    assert_eq!(same(&guest, &dirty, Dedup::Digest, 512).unwrap(), [0; 0]);
    assert_eq!(same(&guest, &dirty, Dedup::Compare, 512).unwrap().len(), 64);
    let (guest, dirty) = ones(64, Stability::Running);
    assert_eq!(same(&guest, &dirty, Dedup::Digest, 512).unwrap().len(), 64);
}

// spec: INH-03
#[test]
fn of_short_runs_within_stored_pages_the_longest_are_inherited_first() {
    let (guest, dirty) = ones(128, Stability::Running);
    // Equal: 10 alone, 20 and 21, 30 to 32, 64 to 79, and 127 at the edge.
    let equal = [10..11, 20..22, 30..33, 64..80, 127..128];
    for page in 0..128 {
        if !equal.iter().any(|run| run.contains(&page)) {
            guest.fill(PageRange::new(page, 1), 2);
        }
    }
    let same = same(&guest, &dirty, Dedup::Digest, 128).unwrap();
    let expected: Vec<u64> = (20..22).chain(30..33).chain(64..80).chain([127]).collect();
    assert_eq!(same, expected);
}

// spec: INH-05
#[test]
fn a_parent_that_cannot_be_read_is_an_error() {
    let (guest, dirty) = ones(64, Stability::Paused);
    let image = Chain::path(0, "img");
    guest
        .backend
        .tamper(&image, |bytes| bytes[5 * PAGE] = 9)
        .unwrap();
    let error = same(&guest, &dirty, Dedup::Compare, 512).unwrap_err();
    let found = matches!(&error, SinkError::Parent(ImageError::DataDigest { .. }));
    assert!(found, "{error:?}");
    assert_eq!(same(&guest, &dirty, Dedup::Digest, 512).unwrap(), [0; 0]);
}
