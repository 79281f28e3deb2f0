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
    run(&options, &place.unwrap().unwrap()).unwrap()
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
        assert!(figure("stop_ms") > 0.0 && figure("state_ms") > 0.0);
        assert!(figure("written_mb_per_s") > 0.0);
        // The guest stands still for less time than with all of its memory written meanwhile.
        assert_eq!(row.against().unwrap().name, "stop-and-copy");
    }
}
