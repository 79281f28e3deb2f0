//! What stays, what is taken over, and what that costs.

use super::{ChainLimits, FileShare, Fragmentation, Takeover, choose_prefix};
use proptest::prelude::*;
use snapshot_format::{LEAF_PAGES, OwnerLeaf};

fn shares(files: &[(u64, u64)]) -> Vec<FileShare> {
    let share = |&(stored_pages, owned_pages): &(u64, u64)| FileShare {
        stored_pages,
        owned_pages,
        is_needed: false,
    };
    files.iter().map(share).collect()
}

fn limits(max_files: usize, max_wasted_percent: u8) -> ChainLimits {
    ChainLimits::default()
        .max_files(max_files)
        .max_wasted_percent(max_wasted_percent)
}

/// A leaf that begins with these runs of owners, and is zero from there on.
fn leaf(runs: &[(u16, usize)]) -> OwnerLeaf {
    let owners: Vec<u16> = runs
        .iter()
        .flat_map(|&(owner, count)| std::iter::repeat_n(owner, count))
        .collect();
    OwnerLeaf::from_fn(7, |page| owners.get(page).copied().unwrap_or(0))
}

fn fragmentation(max_runs: usize, max_extra_percent: u32) -> Fragmentation {
    Fragmentation::default()
        .max_runs(max_runs)
        .max_extra_percent(max_extra_percent)
}

fn runs_of(leaf: &OwnerLeaf) -> usize {
    let owners: Vec<u16> = (0..LEAF_PAGES).map(|page| leaf.owner(page)).collect();
    owners.windows(2).filter(|pair| pair[0] != pair[1]).count() + 1
}

// spec: CON-01
// spec: CON-02
#[test]
fn the_longest_prefix_that_leaves_half_of_the_files_free_stays() {
    // The example of the specification.
    let chain = shares(&[(1000, 880), (100, 20), (100, 60), (50, 50)]);
    assert_eq!(choose_prefix(&chain, limits(3, 50)), Some(0));
    assert_eq!(choose_prefix(&chain, limits(4, 50)), None);
    // A base and many small diffs: the base is not copied.
    let mut long = shares(&[(100_000, 99_000)]);
    long.extend(shares(&[(100, 90); 64]));
    assert_eq!(choose_prefix(&long, limits(65, 50)), None);
    assert_eq!(choose_prefix(&long, limits(64, 50)), Some(31));
    assert_eq!(choose_prefix(&long, limits(8, 50)), Some(3));
    assert_eq!(choose_prefix(&long, limits(2, 50)), Some(0));
    assert_eq!(choose_prefix(&long, limits(1, 50)), Some(0));
    // The last file alone is never copied for nothing.
    let pair = shares(&[(10, 1), (10, 10)]);
    assert_eq!(choose_prefix(&pair, limits(64, 20)), Some(0));
    assert_eq!(choose_prefix(&[], limits(1, 0)), None);
}

// spec: CON-01
#[test]
fn what_wastes_too_much_does_not_stay() {
    // The second file is all but overwritten; the first is whole.
    let mut chain = shares(&[(1000, 1000), (5000, 10)]);
    chain.extend(shares(&[(10, 10); 6]));
    assert_eq!(choose_prefix(&chain, limits(64, 50)), Some(1));
    // Where the first wastes, all are merged.
    let chain = shares(&[(5000, 10), (100, 100), (100, 100)]);
    assert_eq!(choose_prefix(&chain, limits(64, 50)), Some(0));
    assert_eq!(choose_prefix(&chain, limits(64, 100)), None);
}

// spec: CON-02
#[test]
fn what_is_needed_anyway_is_not_wasted() {
    let mut chain = shares(&[(5000, 10), (100, 0), (100, 100), (10, 10)]);
    chain[0].is_needed = true;
    assert_eq!(choose_prefix(&chain, limits(64, 1)), Some(1));
    assert_eq!(choose_prefix(&chain, limits(64, 2)), None);
    chain[1].is_needed = true;
    assert_eq!(choose_prefix(&chain, limits(64, 0)), None);
}

// spec: CON-03
#[test]
fn what_goes_is_taken_over_and_what_stays_keeps_its_number() {
    let before = leaf(&[(1, 10), (3, 5), (0, 4), (2, 8), (4, 1), (2, 3)]);
    let taken = Takeover::of(&before, 2, fragmentation(LEAF_PAGES, 0));
    let pages: Vec<(usize, usize)> = taken.pages().runs().collect();
    assert_eq!(pages, [(10, 5), (27, 1)]);
    let after = leaf(&[(1, 10), (3, 5), (0, 4), (2, 8), (3, 1), (2, 3)]);
    assert_eq!(*taken.owners(), after);
    assert_eq!((taken.runs(), taken.extra_pages()), (7, 0));
    // Standing alone: all but zeros.
    let alone = Takeover::of(&before, 0, Fragmentation::default());
    assert_eq!(*alone.owners(), leaf(&[(1, 15), (0, 4), (1, 12)]));
}

// spec: CON-04
#[test]
fn gaps_are_filled_that_save_the_most_runs_for_a_page_until_there_are_few_enough() {
    // Gaps of 1 page, of 4 pages in 3 runs, of 2 pages, and one with a zero page in it.
    let before = leaf(&[
        (9, 10),
        (1, 1),
        (9, 10),
        (1, 1),
        (2, 1),
        (1, 2),
        (9, 10),
        (1, 2),
        (9, 10),
        (1, 1),
        (0, 1),
        (1, 1),
        (9, 10),
    ]);
    let taken = |runs, percent| {
        let taken = Takeover::of(&before, 2, fragmentation(runs, percent));
        assert_eq!(taken.runs(), runs_of(taken.owners()));
        (taken.runs(), taken.extra_pages())
    };
    assert_eq!(taken(14, 100), (14, 0));
    // A page for two runs; then four pages for four, before two for two by their address.
    assert_eq!(taken(13, 100), (12, 1));
    assert_eq!(taken(12, 100), (12, 1));
    assert_eq!(taken(11, 100), (8, 5));
    assert_eq!(taken(1, 100), (6, 7));
    // 50 pages must be taken: 2 % of them is one more, 9 % four.
    assert_eq!(taken(1, 2), (12, 1));
    assert_eq!(taken(1, 9), (12, 1));
    assert_eq!(taken(1, 10), (8, 5));
    assert_eq!(taken(1, 1), (14, 0));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    // spec: CON-03
    // spec: CON-04
    #[test]
    fn a_merged_leaf_reads_as_before_and_stays_within_its_budget(
        runs in prop::collection::vec((0..6_u16, 1..40_usize), 0..200),
        kept in 0..6_u16,
        max_runs in 1..300_usize,
        percent in 0..200_u32,
    ) {
        let before = leaf(&runs);
        let taken = Takeover::of(&before, kept, fragmentation(max_runs, percent));
        let mut must = 0;
        for page in 0..LEAF_PAGES {
            let (old, new) = (before.owner(page), taken.owners().owner(page));
            prop_assert_eq!(taken.pages().contains(page), new == kept + 1);
            if old > kept {
                must += 1;
                prop_assert_eq!(new, kept + 1);
            } else if old == 0 {
                prop_assert_eq!(new, 0);
            } else {
                prop_assert!(new == old || new == kept + 1);
            }
        }
        let extra = taken.pages().count() - must;
        prop_assert_eq!(taken.extra_pages(), extra);
        prop_assert!(extra * 100 <= must * usize::try_from(percent).unwrap());
        prop_assert_eq!(taken.runs(), runs_of(taken.owners()));
        let unfilled = Takeover::of(&before, kept, fragmentation(LEAF_PAGES, 0));
        prop_assert!(taken.runs() <= unfilled.runs());
        if unfilled.runs() <= max_runs {
            prop_assert_eq!(extra, 0);
        }
    }
}
