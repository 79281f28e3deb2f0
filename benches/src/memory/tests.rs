use std::fs;
use std::os::unix::fs::MetadataExt;

use clap::Parser;

use super::*;
use crate::guest::{Content, HostPages, PAGE};
use crate::place::PlaceKind;

const LEN: u64 = 4 << 20;

fn scratch() -> Scratch {
    Scratch::below(&std::env::temp_dir()).unwrap()
}

#[test]
fn a_full_of_each_peer_holds_the_guest_byte_for_byte() {
    let scratch = scratch();
    let guest = Guest::new(LEN, Content::ZeroPercent(60), HostPages::Small, 1).unwrap();
    for squib in [SQUIB_4K, SQUIB_16K] {
        let path = scratch.path().join(squib.name);
        squib.full(&guest, &path).unwrap();
        assert!(fs::read(&path).unwrap() == guest.bytes(), "{}", squib.name);
    }
}

#[test]
fn a_diff_of_each_peer_holds_the_dirty_pages_and_the_finer_one_nothing_else() {
    let scratch = scratch();
    let guest = Guest::new(LEN, Content::Random, HostPages::Small, 1).unwrap();
    let dirty = PageSet::random(LEN, 10, 2);
    for squib in [SQUIB_4K, SQUIB_16K] {
        let path = scratch.path().join(squib.name);
        squib.diff(&guest, &dirty, &path).unwrap();
        let written = fs::read(&path).unwrap();
        for offset in dirty.offsets() {
            let at = usize::try_from(offset).unwrap();
            assert_eq!(written[at..at + PAGE], guest.bytes()[at..at + PAGE]);
        }
        let stored = written
            .chunks(PAGE)
            .filter(|page| page.iter().any(|&byte| byte != 0));
        let expected = dirty.offsets().count();
        let stored = stored.count();
        assert!(stored >= expected && (squib.name != "squib-4k" || stored == expected));
    }
}

#[test]
fn the_limit_writes_as_many_bytes_as_it_is_asked_for() {
    let scratch = scratch();
    let buffer = HugeBuffer::noise(8 << 20, 3).unwrap();
    for len_bytes in [4096, 3 << 20, 20 << 20] {
        let path = scratch.path().join("limit");
        buffer
            .write_direct(&path, len_bytes, Sync::Nothing)
            .unwrap();
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!(metadata.len(), len_bytes);
        assert!(metadata.blocks() * 512 >= len_bytes);
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn plain_writes_hold_all_of_the_guest_or_its_dirty_pages_in_a_row() {
    let scratch = scratch();
    let guest = Guest::new(LEN, Content::Random, HostPages::Small, 1).unwrap();
    let dirty = PageSet::random(LEN, 10, 2);
    let path = scratch.path().join("full");
    write_plain(&guest, None, Sync::All, &path).unwrap();
    assert!(fs::read(&path).unwrap() == guest.bytes());
    let path = scratch.path().join("diff");
    write_plain(&guest, Some(&dirty), Sync::Data, &path).unwrap();
    let expected: Vec<u8> = dirty
        .offsets()
        .map(|offset| usize::try_from(offset).unwrap())
        .flat_map(|at| guest.bytes()[at..at + PAGE].to_vec())
        .collect();
    assert!(fs::read(&path).unwrap() == expected);
}

fn measure(line: &str) -> Vec<Row> {
    let words = "benches --suite memory --mem 4M --rounds 1 "
        .split_whitespace()
        .chain(line.split_whitespace());
    let options = Options::try_parse_from(words).unwrap();
    let place = Place::new(PlaceKind::Host, &std::env::temp_dir(), LEN).unwrap();
    Ledger::of(|ledger| run(&options, &place.unwrap(), ledger))
}

fn named<'a>(rows: &'a [Row], case: &str) -> Vec<(&'a str, bool)> {
    let rows = rows.iter().filter(|row| row.case == case);
    rows.filter_map(Row::against)
        .map(|rival| (rival.name, rival.is_limit))
        .collect()
}

#[test]
fn the_default_cases_are_those_of_the_contract() {
    let rows = measure("");
    let mut cases: Vec<&str> = rows.iter().map(|row| row.case.as_str()).collect();
    cases.dedup();
    cases.retain(|case| *case != RSS);
    let contract = [
        "full-random",
        "diff-1pct",
        "diff-10pct",
        "diff-50pct",
        "full-60pct-zero",
    ];
    assert_eq!(cases, contract);
    for case in contract {
        let limit = if case.starts_with("diff") {
            "contiguous"
        } else {
            "odirect"
        };
        let rivals = [
            ("squib-4k", false),
            ("squib-16k", false),
            ("plain-4m", false),
            (limit, true),
        ];
        assert_eq!(named(&rows, case), rivals, "{case}");
    }
    let zero = rows
        .iter()
        .find(|row| row.case == "full-60pct-zero")
        .unwrap();
    assert!(zero.count("bytes_nonzero").is_some() && zero.count("bytes_stored").is_some());
}

#[test]
fn every_variant_runs_and_pages_that_equal_the_parent_are_not_stored() {
    let variants: Vec<&str> = PLANS
        .iter()
        .filter(|plan| !plan.is_default)
        .map(|plan| plan.name)
        .collect();
    let rows = measure(&format!("--case {}", variants.join(",")));
    for case in &variants {
        assert!(
            named(&rows, case).iter().any(|(_, is_limit)| *is_limit),
            "{case}"
        );
    }
    let stored = |case: &str| {
        let row = rows.iter().find(|row| row.case == case).unwrap();
        row.count("bytes_stored").unwrap()
    };
    assert!(stored("diff-10pct-dedup") * 10 < stored("diff-10pct-packed") * 8);
}
