use proptest::prelude::*;
use snapshot_format::{Digest, WorkingSetOrigin, WorkingSetRun};

use super::*;

const PAGES: u64 = 1 << 14;

fn touched(runs: &[(u64, u64)]) -> TouchedPages {
    let mut touched = TouchedPages::new(PAGES, WorkingSetOrigin::Trace);
    touched.add_all(
        runs.iter()
            .map(|&(start, count)| PageRange::new(start, count)),
    );
    touched
}

fn set(runs: &[(u64, u64)]) -> WorkingSetIndex {
    let run = |pages: &PageRange| WorkingSetRun {
        pages: *pages,
        is_zero: false,
    };
    WorkingSetIndex {
        manifest: Digest([0; 32]),
        page_count: PAGES,
        origin: WorkingSetOrigin::Trace,
        runs: touched(runs).runs().iter().map(run).collect(),
        digests: Vec::new(),
    }
}

fn change(current: &[(u64, u64)], observed: &Observed) -> Change {
    Change::of(Some(&set(current)), observed, &WorkingSetOptions::default())
}

fn seen(runs: &[(u64, u64)], seen: Seen) -> Observed {
    Observed::new(touched(runs), seen)
}

// spec: WS-17
#[test]
fn a_set_stays_until_enough_of_it_has_changed() {
    let part = Seen::NotBrought(None);
    let cases = [
        // Fewer than 64 pages were touched, all of them missing.
        (vec![(5000, 63)], Seen::All, Verdict::TooFew),
        // 124 of 1000 are missing, then 125.
        (vec![(124, 1000)], Seen::All, Verdict::Same),
        (vec![(125, 1000)], Seen::All, Verdict::Replace),
        (vec![(5000, 124)], part, Verdict::Same),
        (vec![(5000, 125)], part, Verdict::Extend),
        // Half of it is touched, then one page fewer than that more.
        (vec![(0, 500)], Seen::All, Verdict::Replace),
        (vec![(0, 501)], Seen::All, Verdict::Same),
        (vec![(0, 64)], part, Verdict::Same),
    ];
    for (runs, how, verdict) in cases {
        let found = change(&[(0, 1000)], &seen(&runs, how));
        assert_eq!(found.verdict, verdict, "{runs:?} {how:?}: {found:?}");
        assert_eq!(found.pages, 1000);
    }
    // A small set: not fewer than 64 pages, whatever its share.
    let small = |count| change(&[(0, 100)], &seen(&[(300, count)], part)).verdict;
    assert_eq!([small(63), small(64)], [Verdict::TooFew, Verdict::Extend]);
    // What is damaged is made anew, however little was touched.
    let damaged = |runs: &[(u64, u64)], how| {
        let mut observed = seen(runs, how);
        observed.is_damaged = true;
        change(&[(0, 1000)], &observed).verdict
    };
    assert_eq!(damaged(&[(5, 1)], part), Verdict::Extend);
    assert_eq!(damaged(&[(0, 1000)], Seen::All), Verdict::Replace);
    assert_eq!(damaged(&[], part), Verdict::TooFew);
    let none = Change::of(
        None,
        &seen(&[(9, 1)], Seen::All),
        &WorkingSetOptions::default(),
    );
    assert_eq!((none.verdict, none.missing_pages), (Verdict::First, 1));
    let nothing = Change::of(None, &seen(&[], part), &WorkingSetOptions::default());
    assert_eq!(nothing.verdict, Verdict::TooFew);
}

// spec: WS-17
#[test]
fn what_there_is_no_room_for_is_not_missing() {
    let observed = seen(&[(0, 1000), (5000, 2000)], Seen::NotBrought(None));
    let options = WorkingSetOptions::default().max_bytes(1000 * PAGE_BYTES);
    let found = Change::of(Some(&set(&[(0, 1000)])), &observed, &options);
    assert_eq!((found.verdict, found.missing_pages), (Verdict::Same, 0));
}

// spec: WS-16
#[test]
fn a_sample_that_is_not_touched_says_that_the_set_is_stale() {
    let sample = HoldBack::new(7);
    let how = Seen::NotBrought(Some(sample));
    let held = (0..8000).filter(|page| sample.holds(PageIndex(*page)));
    let held: Vec<(u64, u64)> = held.map(|page| (page, 1)).collect();
    let (all, half) = (held.len(), held.len() / 2);
    assert!(half > 64, "{all}");
    let judged = |from: usize| {
        // With 64 pages that are elsewhere, too few to be missed by a set of 8000.
        let runs = [&held[from..], &[(9000, 64)]].concat();
        change(&[(0, 8000)], &seen(&runs, how))
    };
    let found = judged(0);
    assert_eq!((found.verdict, found.stale_pages), (Verdict::Same, 0));
    assert_eq!(found.sampled_pages, all as u64);
    assert_eq!(judged(half - 1).verdict, Verdict::Same);
    assert_eq!(judged(all - half + 1).verdict, Verdict::Replace);
}

proptest! {
    // spec: WS-16
    // spec: WS-17
    #[test]
    fn a_new_set_has_all_that_was_touched_first_and_nothing_that_is_known_to_be_stale(
        current in prop::collection::vec((0..PAGES - 400, 1..400_u64), 1..8),
        runs in prop::collection::vec((0..PAGES - 400, 1..400_u64), 0..8),
        sample in prop::option::of(any::<u64>()),
        all in any::<bool>(),
    ) {
        let sample = sample.map(HoldBack::new);
        let how = if all { Seen::All } else { Seen::NotBrought(sample) };
        let observed = seen(&runs, how);
        let current = set(&current);
        let found = Change::of(Some(&current), &observed, &WorkingSetOptions::default());
        let pages = found.pages(Some(&current), &observed);
        prop_assert_eq!(pages.is_some(), found.verdict.publishes());
        let Some(pages) = pages else { return Ok(()) };
        let first: Vec<PageIndex> = pages.runs().iter().copied().flat_map(pages_in).collect();
        let touched: Vec<PageIndex> =
            observed.touched.runs().iter().copied().flat_map(pages_in).collect();
        prop_assert!(first.starts_with(&touched));
        let kept = pages_of(&current);
        for page in (0..PAGES).map(PageIndex).filter(|page| !observed.touched.has(*page)) {
            let stays = found.verdict == Verdict::Extend && kept.has(page)
                && !sample.is_some_and(|sample| sample.holds(page));
            prop_assert_eq!(pages.has(page), stays, "{:?}", page);
        }
    }
}
