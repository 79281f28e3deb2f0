//! The dirty bitmap against a set of page numbers.

use std::collections::BTreeSet;

use snapshot_format::{PageIndex, PageRange};
use snapshot_memory::DirtyBitmap;

use crate::fuzz::input::Input;

/// After every operation the bitmap holds what the set holds.
///
/// # Panics
///
/// If that does not hold.
pub fn fuzz_dirty_ops(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let page_count = 1 + input.below(MAX_PAGES);
    let bitmap = DirtyBitmap::new(page_count);
    let mut model = BTreeSet::new();
    while !input.is_empty() {
        step(&mut input, &bitmap, &mut model);
        check(&bitmap, &model);
    }
}

fn step(input: &mut Input<'_>, bitmap: &DirtyBitmap, model: &mut BTreeSet<u64>) {
    let page_count = bitmap.page_count();
    // Pages beyond the end are given too: they must be ignored.
    let start = input.below(page_count + 70);
    match input.byte() % 6 {
        0 => {
            bitmap.set(PageIndex(start));
            model.extend([start].into_iter().filter(|page| *page < page_count));
        }
        1 => {
            let count = input.below(page_count + 70);
            bitmap.set_range(PageRange::new(start, count));
            model.extend(start..(start + count).min(page_count).max(start));
        }
        2 => {
            let count = input.below(200);
            let log = [input.word(), input.word(), input.word()];
            bitmap.or_log(PageRange::new(start, count), &log);
            let logged = (0..count.min(192)).filter(|bit| {
                log.get((bit / 64) as usize)
                    .is_some_and(|word| word >> (bit % 64) & 1 == 1)
            });
            model.extend(
                logged
                    .map(|bit| start + bit)
                    .filter(|page| *page < page_count),
            );
        }
        3 => {
            let other = DirtyBitmap::new(page_count);
            other.set_range(PageRange::new(start, input.below(64)));
            model.extend(pages(&other));
            bitmap.or_from(&other);
        }
        4 => {
            let taken = bitmap.take();
            check(&taken, model);
            model.clear();
        }
        _ => {
            let bytes = bitmap.to_le_bytes();
            let copy = DirtyBitmap::from_le_bytes(page_count, &bytes).ok();
            assert_eq!(
                copy.as_ref().map(pages),
                Some(pages(bitmap)),
                "the file form round trips"
            );
        }
    }
}

fn check(bitmap: &DirtyBitmap, model: &BTreeSet<u64>) {
    assert_eq!(bitmap.count(), model.len() as u64);
    assert_eq!(bitmap.is_clean(), model.is_empty());
    assert!(
        pages(bitmap).iter().eq(model),
        "the runs are the pages of the model"
    );
    let mut end = None;
    for run in bitmap.iter_runs() {
        assert!(
            run.count > 0 && end.is_none_or(|end| run.start.0 > end),
            "runs are maximal"
        );
        end = Some(run.end().0);
    }
}

fn pages(bitmap: &DirtyBitmap) -> Vec<u64> {
    bitmap
        .iter_runs()
        .flat_map(|run| run.start.0..run.end().0)
        .collect()
}

const MAX_PAGES: u64 = 1000;
