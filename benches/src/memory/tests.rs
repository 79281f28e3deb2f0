use std::fs;
use std::os::unix::fs::MetadataExt;

use super::*;
use crate::guest::PAGE;

const LEN: u64 = 4 << 20;

fn scratch() -> Scratch {
    Scratch::below(&std::env::temp_dir()).unwrap()
}

#[test]
fn a_full_of_each_peer_holds_the_guest_byte_for_byte() {
    let scratch = scratch();
    let guest = Guest::new(LEN, Content::ZeroPercent(60), 1).unwrap();
    for squib in [SQUIB_4K, SQUIB_16K] {
        let path = scratch.path().join(squib.name);
        squib.full(&guest, &path).unwrap();
        assert!(fs::read(&path).unwrap() == guest.bytes(), "{}", squib.name);
    }
}

#[test]
fn a_diff_of_each_peer_holds_the_dirty_pages_and_the_finer_one_nothing_else() {
    let scratch = scratch();
    let guest = Guest::new(LEN, Content::Random, 1).unwrap();
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
    for len_bytes in [4096, 3 << 20, 8 << 20] {
        let path = scratch.path().join("limit");
        buffer.write_direct(&path, len_bytes).unwrap();
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!(metadata.len(), len_bytes);
        assert!(metadata.blocks() * 512 >= len_bytes);
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn every_case_has_rows_for_both_peers_and_the_limit() {
    use clap::Parser;

    let line = "benches --suite memory --mem 4M --rounds 1".split(' ');
    let options = Options::try_parse_from(line).unwrap();
    let rows = run(&options, &scratch(), |_| true).unwrap();
    let rows = serde_json::to_value(rows).unwrap();
    let named = |key: &str| -> Vec<String> {
        let rows = rows.as_array().unwrap();
        let names = rows.iter().filter_map(|row| row[key].as_str());
        names.map(str::to_owned).collect()
    };
    assert_eq!(named("case").len(), 3 * CASES.len());
    let mut cases = named("case");
    cases.dedup();
    assert_eq!(cases, CASES);
    assert_eq!(named("peer"), ["squib-4k", "squib-16k"].repeat(CASES.len()));
    let limits = [
        "odirect",
        "contiguous",
        "contiguous",
        "contiguous",
        "odirect",
    ];
    assert_eq!(named("limit"), limits);
}
