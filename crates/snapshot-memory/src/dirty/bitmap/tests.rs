use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const PAGES: u64 = 200;

fn pages(bitmap: &DirtyBitmap) -> BTreeSet<u64> {
    let runs: Vec<_> = bitmap.iter_runs().collect();
    for pair in runs.windows(2) {
        assert!(pair[0].end() < pair[1].start, "runs touch: {pair:?}");
    }
    runs.iter()
        .flat_map(|run| run.start.0..run.end().0)
        .collect()
}

#[derive(Clone, Debug)]
enum Step {
    Set(u64),
    Range(u64, u64),
    Log(u64, u64, Vec<u64>),
    Take,
    Or(Vec<u64>),
}

fn step() -> impl Strategy<Value = Step> {
    let log = prop::collection::vec(any::<u64>(), 0..4);
    prop_oneof![
        (0..PAGES + 70).prop_map(Step::Set),
        (0..PAGES + 70, 0..150u64).prop_map(|(start, count)| Step::Range(start, count)),
        (0..PAGES + 70, 0..150u64, log)
            .prop_map(|(start, count, log)| Step::Log(start, count, log)),
        Just(Step::Take),
        prop::collection::vec(0..PAGES + 70, 0..20).prop_map(Step::Or),
    ]
}

proptest! {
    #[test]
    fn a_bitmap_is_a_set_of_pages(steps in prop::collection::vec(step(), 0..40)) {
        let bitmap = DirtyBitmap::new(PAGES);
        let mut model = BTreeSet::new();
        for step in steps {
            match step {
                Step::Set(page) => {
                    bitmap.set(PageIndex(page));
                    model.insert(page);
                }
                Step::Range(start, count) => {
                    bitmap.set_range(PageRange::new(start, count));
                    model.extend(start..start + count);
                }
                Step::Log(start, count, log) => {
                    bitmap.or_log(PageRange::new(start, count), &log);
                    let bit = |n: u64| log.get(n as usize / 64).map_or(0, |w| w >> (n % 64) & 1);
                    model.extend((0..count).filter(|&n| bit(n) == 1).map(|n| start + n));
                }
                Step::Take => {
                    prop_assert_eq!(&pages(&bitmap.take()), &model);
                    model.clear();
                }
                Step::Or(pages) => {
                    // A bitmap of more pages than ours.
                    let other = DirtyBitmap::new(PAGES + 70);
                    pages.iter().for_each(|&page| other.set(PageIndex(page)));
                    bitmap.or_from(&other);
                    model.extend(pages);
                }
            }
            model.retain(|&page| page < PAGES);
            prop_assert_eq!(&pages(&bitmap), &model);
            prop_assert_eq!(bitmap.count(), model.len() as u64);
            prop_assert_eq!(bitmap.run_count(), bitmap.iter_runs().count() as u64);
            prop_assert_eq!(bitmap.is_clean(), model.is_empty());
            for page in 0..PAGES + 70 {
                prop_assert_eq!(bitmap.is_set(PageIndex(page)), model.contains(&page));
            }
            let bytes = bitmap.to_le_bytes();
            prop_assert_eq!(DirtyBitmap::from_le_bytes(PAGES, &bytes), Ok(bitmap.clone()));
            prop_assert_eq!(DirtyBitmap::from_le_bytes(PAGES, &bytes[..25]), Ok(bitmap.clone()));
        }
    }
}

#[test]
fn bytes_of_another_length_are_refused() {
    for len in [0, 24, 26, 31, 33, 40] {
        let error = DirtyBitmap::from_le_bytes(PAGES, &vec![0; len]).unwrap_err();
        assert!(matches!(error, BitmapError::Length { found, .. } if found == len));
    }
}

#[test]
fn a_bit_beyond_the_last_page_is_refused() {
    for bit in [3, 7, 8, 63] {
        let mut bytes = [0; 8];
        bytes[bit / 8] = 1 << (bit % 8);
        let len = if bit < 8 { 1 } else { 8 };
        let error = DirtyBitmap::from_le_bytes(3, &bytes[..len]).unwrap_err();
        let expected = BitmapError::Tail {
            bit: bit as u64,
            page_count: 3,
        };
        assert_eq!(error, expected);
    }
}

#[test]
fn no_bit_is_lost_between_a_setter_and_a_taker() {
    let bitmap = DirtyBitmap::new(64 * 64);
    let seen = DirtyBitmap::new(64 * 64);
    std::thread::scope(|scope| {
        let setter = scope.spawn(|| (0..64 * 64).for_each(|page| bitmap.set(PageIndex(page))));
        while !setter.is_finished() {
            seen.or_from(&bitmap.take());
        }
    });
    seen.or_from(&bitmap.take());
    assert_eq!(seen.count(), 64 * 64);
}
