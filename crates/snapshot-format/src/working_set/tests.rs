use super::*;
use crate::address::{PAGE_BYTES, PageRange};
use crate::envelope::{Envelope, FileKind, Header, SectionTable};
use crate::error::{DecodeError, ErrorKind};
use crate::id::{Digest, SnapshotId};
use crate::limits;

fn run(start: u64, count: u64, is_zero: bool) -> WorkingSetRun {
    WorkingSetRun {
        pages: PageRange::new(start, count),
        is_zero,
    }
}

/// 20 pages of bytes in two units, and 3 zero pages.
fn index() -> WorkingSetIndex {
    WorkingSetIndex {
        manifest: Digest([7; 32]),
        page_count: 1000,
        origin: WorkingSetOrigin::Trace,
        runs: vec![run(40, 17, false), run(100, 3, true), run(5, 3, false)],
        digests: data().chunks(1 << 16).map(Digest::of).collect(),
    }
}

fn data() -> Vec<u8> {
    (0..20 * PAGE_BYTES)
        .map(|at| (at >> 9).to_le_bytes()[0])
        .collect()
}

fn file(index: &WorkingSetIndex, data: &[u8]) -> Vec<u8> {
    let frame = index.frame(SnapshotId([3; 16]), Digest::of(data));
    [&*frame.head, data, &frame.tail].concat()
}

/// What a reader says of an index that was changed.
fn refused(change: impl FnOnce(&mut Vec<u8>)) -> DecodeError {
    let mut bytes = index().encode();
    change(&mut bytes);
    WorkingSetIndex::decode(&bytes).expect_err("a broken rule")
}

fn put(bytes: &mut [u8], at: usize, new: &[u8]) {
    bytes[at..at + new.len()].copy_from_slice(new);
}

// spec: WS-01
#[test]
fn a_working_set_comes_back_as_it_was_written() {
    let (index, data) = (index(), data());
    assert_eq!((index.data_pages(), index.zero_pages()), (20, 3));
    let bytes = file(&index, &data);
    let offset = usize::try_from(index.data_offset()).unwrap();
    assert!(offset.is_multiple_of(4096));
    assert_eq!(bytes[offset..offset + data.len()], data);
    assert_eq!(WorkingSetIndex::read(&bytes).as_ref(), Ok(&index));
    let frame = index.frame(SnapshotId([3; 16]), Digest::of(&data));
    assert_eq!(frame.file_len, bytes.len() as u64);
    assert_eq!(index.unit_range(1), Some(1 << 16..20 * PAGE_BYTES));
    assert_eq!(index.unit_range(2), None);
}

// spec: WS-01
#[test]
fn a_set_of_zero_pages_alone_has_no_data() {
    let index = WorkingSetIndex {
        runs: vec![run(0, 1000, true)],
        digests: Vec::new(),
        ..index()
    };
    let bytes = file(&index, &[]);
    assert_eq!(WorkingSetIndex::read(&bytes), Ok(index));
}

// spec: WS-02
#[test]
fn a_unit_with_a_changed_byte_is_refused_at_its_place() {
    let (index, mut data) = (index(), data());
    assert_eq!(index.check_unit(1, &data[1 << 16..]), Ok(()));
    data[70_000] ^= 1;
    let error = index.check_unit(1, &data[1 << 16..]).unwrap_err();
    assert_eq!(error.offset(), Some(index.data_offset() + (1 << 16)));
    assert!(matches!(error, DecodeError::Digest { .. }), "{error}");
    let short = index.check_unit(1, &data[1 << 16..80_000]).unwrap_err();
    assert!(matches!(short, DecodeError::Length { .. }), "{short}");
    let beyond = index.check_unit(2, &[]).unwrap_err();
    assert!(matches!(beyond, DecodeError::Missing { .. }), "{beyond}");
    // Behind digests of the whole that are right, each unit still has its own.
    let error = WorkingSetIndex::read(&file(&index, &data)).unwrap_err();
    assert_eq!(error.offset(), Some(index.data_offset() + (1 << 16)));
}

// spec: WS-03
#[test]
fn runs_that_are_empty_lie_outside_or_come_twice_are_refused() {
    let run_at = |number: usize| WORKING_SET_HEADER_BYTES + number * WORKING_SET_RUN_BYTES;
    let cases: [(usize, [u32; 2]); 5] = [
        (0, [40, 0]),
        (0, [984, 17]),
        (0, [u32::MAX, 17]),
        (2, [42, 3]),
        (1, [39, 2 | 1 << 31]),
    ];
    for (number, words) in cases {
        let error = refused(|bytes| {
            put(bytes, run_at(number), &words[0].to_le_bytes());
            put(bytes, run_at(number) + 4, &words[1].to_le_bytes());
        });
        assert!(
            matches!(error, DecodeError::Invalid { .. }),
            "{words:?}: {error}"
        );
    }
    let error = refused(|bytes| put(bytes, run_at(2) + 4, &2u32.to_le_bytes()));
    assert_eq!(error.offset(), Some(44), "the sum of the pages: {error}");
}

// spec: WS-04
#[test]
fn counts_are_limited_before_anything_is_allocated_by_them() {
    let runs = u32::try_from(limits::MAX_WORKING_SET_RUNS).unwrap() + 1;
    let pages = u32::try_from(limits::MAX_WORKING_SET_PAGES).unwrap() + 1;
    for (at, new) in [(40, runs), (44, pages), (36, 1), (40, u32::MAX)] {
        let error = refused(|bytes| put(bytes, at, &new.to_le_bytes()));
        assert!(
            matches!(error, DecodeError::Limit { .. }),
            "{at} {new}: {error}"
        );
    }
    for (at, new) in [(40, 2_u32), (40, 900), (44, 17), (44, 33)] {
        let error = refused(|bytes| put(bytes, at, &new.to_le_bytes()));
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{at} {new}: {error}");
    }
    for (at, new) in [(48, 1_u16), (50, 0), (50, 5), (52, 1), (62, 1)] {
        let error = refused(|bytes| put(bytes, at, &new.to_le_bytes()));
        assert_eq!(error.offset(), Some(at as u64), "{error}");
    }
    let error = refused(|bytes| *bytes.last_mut().unwrap() = 1);
    assert!(error.to_string().contains("padding"), "{error}");
    refused(|bytes| bytes.truncate(bytes.len() - 8));
    refused(|bytes| bytes.resize(bytes.len() + 4096, 0));
}

// spec: WS-05, VER-03
#[test]
fn sections_lie_where_a_reader_of_large_pieces_needs_them() {
    let (index, data) = (index(), data());
    let bytes = file(&index, &data);
    let envelope = Envelope::parse(&bytes).unwrap();
    let section = index.encode();
    let parse = |change: &dyn Fn(&mut Header, &mut Vec<crate::SectionEntry>)| {
        let mut header = envelope.header().clone();
        let mut entries = envelope.table().entries().to_vec();
        change(&mut header, &mut entries);
        WorkingSetIndex::parse(&header, &SectionTable::new(entries), &section)
    };
    assert_eq!(parse(&|_, _| {}), Ok(index));
    parse(&|header, _| header.kind = FileKind::MemoryMap).unwrap_err();
    parse(&|header, _| header.reader_minor = 3).unwrap_err();
    let error = parse(&|header, _| header.features.read = 1 << 31).unwrap_err();
    assert!(matches!(error, DecodeError::Feature { .. }), "{error}");
    parse(&|_, entries| entries[1].version = 2).unwrap_err();
    parse(&|_, entries| entries[1].codec = 1).unwrap_err();
    parse(&|_, entries| entries[0].compression = 1).unwrap_err();
    parse(&|_, entries| entries[1].offset += 8).unwrap_err();
    parse(&|_, entries| entries[1].stored_len -= 4096).unwrap_err();
    parse(&|_, entries| entries[0].stored_len += 1 << 30).unwrap_err();
    parse(&|_, entries| entries.truncate(1)).unwrap_err();
    parse(&|_, entries| {
        let mut more = entries[1].clone();
        more.instance = 1;
        entries.push(more);
    })
    .unwrap_err();
}
