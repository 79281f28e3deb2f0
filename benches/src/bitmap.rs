//! Suite `bitmap`: what looking for dirty pages costs.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::num::NonZeroUsize;
use std::time::Instant;

use snapshot_format::PAGE_BYTES;

use crate::error::BenchError;
use crate::page_set::PageSet;
use crate::row::{Case, Row};
use crate::sample::{Contestant, alternate};

/// 64 GiB of guest memory.
const PAGES: u64 = 16 << 20;

const PERCENT: u64 = 1;

/// Runs the suite.
pub(crate) fn run(rounds: NonZeroUsize) -> Result<Vec<Row>, BenchError> {
    let dirty = PageSet::random(PAGES * PAGE_BYTES, PERCENT, 0x1bad_b175);
    let bitmap = dirty.bitmap(PAGES * PAGE_BYTES);
    let iterate = Contestant::new("ours", || {
        let start = Instant::now();
        let pages: u64 = black_box(&bitmap).iter_runs().map(|run| run.count).sum();
        black_box(pages);
        Ok(start.elapsed())
    });
    let case = Case {
        suite: "bitmap",
        name: "iterate-16m-1pct".to_owned(),
        policy: "runs of dirty pages, in order".to_owned(),
        file_system: None,
        counts: BTreeMap::from([
            ("pages".to_owned(), PAGES),
            ("dirty".to_owned(), bitmap.count()),
        ]),
        figures: BTreeMap::new(),
    };
    let samples = alternate(vec![iterate], rounds, || Ok(()))?;
    Ok(samples
        .iter()
        .flat_map(|ours| case.compare(ours, &[]))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suite_counts_the_pages_that_are_dirty() {
        let rows = run(NonZeroUsize::MIN).unwrap();
        let row = serde_json::to_value(&rows[0]).unwrap();
        assert_eq!(row["case"], "iterate-16m-1pct");
        assert_eq!(row["dirty"], PAGES / 100);
        assert!(row["ours_ms"].as_f64().unwrap() > 0.0);
    }
}
