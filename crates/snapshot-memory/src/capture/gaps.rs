//! Joining dirty runs across small gaps of clean pages.

use snapshot_format::PageRange;

/// The runs, which ascend and do not overlap, with those joined that at most `max_gap_pages` clean
/// pages lie between.
///
/// The pages of a gap are then stored as present. That is true of paused memory only, which holds
/// the parent's bytes there, and pays in sparse data only, where each run is an extent.
pub(super) fn merged(
    runs: impl Iterator<Item = PageRange>,
    max_gap_pages: u64,
) -> impl Iterator<Item = PageRange> {
    let mut runs = runs.peekable();
    std::iter::from_fn(move || {
        let mut run = runs.next()?;
        let is_near = |run: &PageRange, next: &PageRange| {
            next.start.0.saturating_sub(run.end().0) <= max_gap_pages
        };
        while let Some(next) = runs.next_if(|next| is_near(&run, next)) {
            run.count = next.end().0 - run.start.0;
        }
        Some(run)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use snapshot_format::PageIndex;

    use super::*;
    use crate::dirty::DirtyBitmap;

    proptest! {
        // spec: CST-08
        #[test]
        fn only_gaps_up_to_the_limit_are_filled(
            pages in prop::collection::vec(0..400u64, 0..120),
            max_gap in 0..6u64,
        ) {
            let dirty = DirtyBitmap::new(400);
            pages.iter().for_each(|&page| dirty.set(PageIndex(page)));
            let expected = dirty.clone();
            let runs: Vec<PageRange> = dirty.iter_runs().collect();
            for pair in runs.windows(2) {
                let (end, start) = (pair[0].end().0, pair[1].start.0);
                if start - end <= max_gap {
                    expected.set_range(PageRange::new(end, start - end));
                }
            }
            let joined: Vec<PageRange> = merged(dirty.iter_runs(), max_gap).collect();
            prop_assert_eq!(joined, expected.iter_runs().collect::<Vec<_>>());
        }
    }

    #[test]
    fn without_a_gap_to_fill_runs_stay_as_they_are() {
        let runs = [
            PageRange::new(0, 2),
            PageRange::new(3, 1),
            PageRange::new(9, 4),
        ];
        assert!(merged(runs.into_iter(), 0).eq(runs));
        assert!(merged(std::iter::empty(), 3).eq([]));
    }
}
