use std::collections::BTreeSet;
use std::sync::Mutex;

use proptest::prelude::*;

use super::*;

/// Notes every page that it gets, with the first byte of it.
#[derive(Default)]
struct Noted(Mutex<Vec<(u64, Option<u8>)>>);

impl PageTarget for Noted {
    fn page_count(&self) -> u64 {
        1 << 20
    }

    fn put(&self, pages: PageRange, bytes: &[u8]) -> Result<(), Box<dyn Error + Send + Sync>> {
        assert_eq!(pages.len_bytes(), Some(bytes.len() as u64));
        let firsts = bytes.chunks(4096).map(|page| Some(page[0]));
        self.0.lock().unwrap().extend((pages.start.0..).zip(firsts));
        Ok(())
    }

    fn put_zero(&self, pages: PageRange) -> Result<(), Box<dyn Error + Send + Sync>> {
        let zero = (pages.start.0..pages.end().0).map(|page| (page, None));
        self.0.lock().unwrap().extend(zero);
        Ok(())
    }
}

proptest! {
    // spec: WS-16
    #[test]
    fn all_pages_but_the_sample_are_put_in_place_once(
        seed in any::<u64>(), start in 0..500_u64, count in 0..300_u64,
    ) {
        let hold_back = HoldBack::new(seed);
        let pages = PageRange::new(start, count);
        let range = start..start + count;
        let left = range.filter(|page| !hold_back.holds(PageIndex(*page)));
        let left: Vec<u64> = left.collect();
        let bytes: Vec<u8> = (start..start + count).flat_map(|page| [page as u8; 4096]).collect();
        let noted = Noted::default();
        let target = hold_back.without(&noted);
        target.put(pages, &bytes).unwrap();
        let found = std::mem::take(&mut *noted.0.lock().unwrap());
        let expected: Vec<_> = left.iter().map(|page| (*page, Some(*page as u8))).collect();
        prop_assert_eq!(found, expected);
        target.put_zero(pages).unwrap();
        let found: Vec<_> = noted.0.lock().unwrap().iter().map(|(page, _)| *page).collect();
        prop_assert_eq!(found, left);
    }
}

// spec: WS-16
#[test]
fn a_sample_is_a_sixteenth_and_another_number_makes_another_one() {
    let held = |seed| -> BTreeSet<u64> {
        let blocks = 0..4096;
        let first = |block: &u64| PageIndex(block * HoldBack::BLOCK_PAGES);
        let held = blocks.filter(|block| HoldBack::new(seed).holds(first(block)));
        held.collect()
    };
    let mut ever = BTreeSet::new();
    for seed in 0..200 {
        let now = held(seed);
        assert!((150..370).contains(&now.len()), "{seed}: {}", now.len());
        ever.extend(now);
    }
    assert_eq!(ever.len(), 4096, "every block has its turn");
}
