use clap::Parser;
use snapshot_memory::skip::skip;
use snapshot_memory::{UffdContext, UffdOptions};

use super::*;
use crate::place::PlaceKind;

/// The rows of these cases, with so few snapshots that they prove nothing.
fn quick(cases: &str) -> Vec<Row> {
    let line = format!("benches --suite live --quick --case {cases}");
    let options = Options::try_parse_from(line.split(' ')).unwrap();
    let place = Place::new(PlaceKind::Host, &std::env::temp_dir(), 16 << 20);
    Ledger::of(|ledger| run(&options, &place.unwrap().unwrap(), ledger))
}

#[test]
fn every_source_of_dirty_pages_says_where_the_pause_went() {
    if let Err(reason) = kvm::available() {
        return skip("kvm", &reason);
    }
    let mut cases = vec!["pause-256m", "pause-256m-ring"];
    match UffdContext::new(UffdOptions::default()) {
        Ok(_) => cases.push("pause-256m-wp-async"),
        Err(error) => skip("uffd", &error.to_string()),
    }
    let rows = quick(&cases.join(","));
    assert_eq!(rows.len(), cases.len());
    for row in &rows {
        let figure = |name: &str| row.figure(name).unwrap();
        assert!(figure("p99_ms") >= row.ours_ms, "{row:?}");
        assert!(figure("longest_ms") >= figure("p99_ms"), "{row:?}");
        // Three live snapshots, and one of the stopped machine beside them.
        assert_eq!(
            (row.runs, row.against().unwrap().pairs.unstable),
            (3, false)
        );
        // The guest cannot be back before it is let go.
        assert!(figure("gap_p50_ms") > 0.0, "{row:?}");
        assert!(figure("stop_ms") > 0.0 && figure("state_ms") > 0.0);
        assert!(figure("written_mb_per_s") > 0.0);
        // The guest stands still for less time than with all of its memory written meanwhile.
        assert_eq!(row.against().unwrap().name, "stop-and-copy");
    }
}

#[test]
fn a_case_ends_when_it_has_its_pauses_or_was_long_enough_for_a_percentile() {
    let (short, long) = (Duration::from_secs(1), Duration::from_hours(1));
    let eleven = NonZeroUsize::new(11).unwrap();
    let blocks = Blocks::new(eleven, false);
    assert_eq!(blocks.count * blocks.pauses, 200);
    assert!(blocks.go_on(0, long) && blocks.go_on(blocks.count - 1, short));
    assert!(!blocks.go_on(blocks.count, short));
    // Slow, and yet a hundred: a pause lies beyond the 99th percentile.
    let stops = (0..100).find(|&done| !blocks.go_on(done, long)).unwrap();
    assert!((100..200).contains(&(stops * blocks.pauses)), "{stops}");
    let many = Blocks::new(NonZeroUsize::new(1001).unwrap(), false);
    assert!(many.count * many.pauses >= 1001);
}
