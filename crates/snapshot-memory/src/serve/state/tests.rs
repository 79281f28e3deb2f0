use proptest::prelude::*;

use super::*;

const PAGES: u64 = 2 * LEAF_PAGES + 77;

#[derive(Clone, Copy, Debug)]
enum Change {
    Fill(u64, u64),
    Discard(u64, u64),
    Lose(u64),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let near = (0..3u64, 0..200u64).prop_map(|(leaf, at)| (leaf * LEAF_PAGES + at).min(PAGES - 1));
    let change = (0..3, near, 0..150u64).prop_map(|(kind, start, count)| match kind {
        0 => Change::Fill(start, count),
        1 => Change::Discard(start, count),
        _ => Change::Lose(start),
    });
    proptest::collection::vec(change, 0..40)
}

/// The same, one page at a time.
fn model(changes: &[Change]) -> Vec<PageState> {
    use PageState::{Absent, Discarded, Filled, Lost};
    let mut pages = vec![Absent; PAGES as usize];
    for change in changes {
        let (start, count) = match *change {
            Change::Fill(start, count) | Change::Discard(start, count) => (start, count),
            Change::Lose(start) => (start, 1),
        };
        for page in start..(start + count).min(PAGES) {
            let page = &mut pages[page as usize];
            *page = match (change, *page) {
                (Change::Fill(..), Absent | Lost) => Filled,
                (Change::Discard(..), _) => Discarded,
                (Change::Lose(_), Absent) => Lost,
                (_, same) => same,
            };
        }
    }
    pages
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn words_change_as_single_pages_would(changes in changes(), at in 0..PAGES, limit in 1..300u64) {
        let states = PageStates::new(PAGES);
        for change in &changes {
            match *change {
                Change::Fill(start, count) => states.fill(PageRange::new(start, count)),
                Change::Discard(start, count) => states.discard(PageRange::new(start, count)),
                Change::Lose(page) => { states.lose(PageIndex(page)); }
            }
        }
        let model = model(&changes);
        for (page, state) in model.iter().enumerate() {
            prop_assert_eq!(states.get(PageIndex(page as u64)), *state);
        }
        let end = (at + limit).min(PAGES);
        let alike = model[at as usize..end as usize].iter();
        let alike = alike.take_while(|state| **state == model[at as usize]).count() as u64;
        let found = states.run(PageRange::new(at, end - at));
        prop_assert_eq!(found, (model[at as usize], alike));
        let window = PageRange::new(at, end - at);
        for page in at..end {
            let found = states.absent_around(window, PageIndex(page));
            let is_absent = |page: &u64| model[*page as usize] == PageState::Absent;
            let before = (at..=page).rev().take_while(is_absent).count() as u64;
            let after = (page..end).take_while(is_absent).count() as u64;
            prop_assert_eq!(found.count, (before + after).saturating_sub(1));
            if found.count > 0 {
                prop_assert_eq!(found.start.0, page + 1 - before);
            }
        }
    }
}

#[test]
fn a_page_is_lost_once_and_found_again_by_a_fill() {
    let states = PageStates::new(40);
    assert!(states.lose(PageIndex(33)));
    assert!(!states.lose(PageIndex(33)));
    states.fill(PageRange::new(33, 1));
    assert_eq!(states.get(PageIndex(33)), PageState::Filled);
    assert!(!states.lose(PageIndex(33)));
}

#[test]
fn pages_beyond_the_end_do_not_exist() {
    let states = PageStates::new(40);
    states.fill(PageRange::new(30, u64::MAX - 30));
    assert_eq!(states.run(PageRange::new(30, 100)), (PageState::Filled, 10));
    assert_eq!(states.run(PageRange::new(40, 4)).1, 0);
}
