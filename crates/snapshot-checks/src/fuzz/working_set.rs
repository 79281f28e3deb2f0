//! Working sets: the index alone, and whole files.

use std::collections::BTreeSet;

use snapshot_format::envelope::HEADER_BYTES;
use snapshot_format::{
    Digest, Envelope, PAGE_BYTES, SectionKind, SnapshotId, WORKING_SET_UNIT_BYTES, WorkingSetIndex,
};

use super::files::both_ways;

/// Whatever is accepted is written as it was read, names every page once, and covers its data with
/// digests without a hole.
///
/// # Panics
///
/// If that does not hold.
pub fn fuzz_working_set(bytes: &[u8]) {
    check_index(bytes);
    // Seeds are whole files: the index lies behind the header.
    check_index(bytes.get(HEADER_BYTES..).unwrap_or_default());
    both_ways(bytes, check_file);
}

fn check_index(bytes: &[u8]) {
    let Ok(index) = WorkingSetIndex::decode(bytes) else {
        return;
    };
    assert_eq!(index.encode(), bytes);
    let mut pages = BTreeSet::new();
    for run in &index.runs {
        assert!(!run.pages.is_empty());
        assert!(run.pages.end().0 <= index.page_count);
        let ends = [run.pages.start.0, run.pages.end().0 - 1];
        assert!(pages.insert(ends[0]));
        assert!(ends[0] == ends[1] || pages.insert(ends[1]));
    }
    assert!(index.data_offset().is_multiple_of(PAGE_BYTES));
    let mut end = 0;
    for unit in 0..index.digests.len() {
        let range = index.unit_range(unit).unwrap_or_default();
        assert!(range.start == end && range.end > end);
        assert!(range.end - range.start <= WORKING_SET_UNIT_BYTES as u64);
        end = range.end;
    }
    assert_eq!(end, index.data_len());
    assert_eq!(index.unit_range(index.digests.len()), None);
}

fn check_file(bytes: &[u8]) {
    let Ok(index) = WorkingSetIndex::read(bytes) else {
        return;
    };
    let envelope = Envelope::parse(bytes).map(|envelope| {
        let data = envelope.section(SectionKind::WORKING_SET_DATA, 0);
        (envelope.header().id, data.unwrap_or_default())
    });
    let (id, data) = envelope.unwrap_or((SnapshotId([0; 16]), &[]));
    let frame = index.frame(id, Digest::of(data));
    assert_eq!(frame.file_len, bytes.len() as u64);
    let body = bytes.get(HEADER_BYTES..).unwrap_or_default();
    let head = frame.head.get(HEADER_BYTES..).unwrap_or_default();
    assert!(
        body.starts_with(head),
        "the index is written as it was read"
    );
}
