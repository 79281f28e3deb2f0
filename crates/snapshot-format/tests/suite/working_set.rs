//! A small working set, and what breaks its rules behind digests that are right.

use snapshot_format::envelope::envelope_digest;
use snapshot_format::{
    Digest, FileEntry, FileKind, PageRange, Placement, WorkingSetIndex, WorkingSetOrigin,
    WorkingSetRun, table_range,
};

use crate::cases::{DIFF, placement};
use crate::golden;

/// Three pages of bytes in two runs and four zero pages, in the order in which they were touched.
pub(crate) fn index() -> WorkingSetIndex {
    let run = |start, count, is_zero| WorkingSetRun {
        pages: PageRange::new(start, count),
        is_zero,
    };
    WorkingSetIndex {
        manifest: Digest::of(b"manifest"),
        page_count: 16_400,
        origin: WorkingSetOrigin::Trace,
        runs: vec![run(300, 2, false), run(8, 4, true), run(16_390, 1, false)],
        digests: vec![Digest::of(&data())],
    }
}

pub(crate) fn data() -> Vec<u8> {
    [[b'A'; 4096], [b'B'; 4096], [b'C'; 4096]].concat()
}

pub(crate) fn file() -> Vec<u8> {
    file_of(&index())
}

/// The file of an index, with right digests of both sections.
fn file_of(index: &WorkingSetIndex) -> Vec<u8> {
    let frame = index.frame(DIFF, Digest::of(&data()));
    [frame.head, data(), frame.tail].concat()
}

/// A second generation of a placement, which adds the working set and nothing else.
pub(crate) fn placement_with_it() -> Placement {
    let mut placement = placement();
    placement.generation = 2;
    // The header of a working set that is written today names today's version.
    let file = golden::read("v0.4/working-set.vms");
    let head = file.first_chunk().expect("a header");
    let table = table_range(&file).expect("a sound header").start;
    let table = usize::try_from(table).expect("a short file");
    let entry = FileEntry {
        kind: FileKind::WorkingSet,
        index: 2,
        len_bytes: file.len() as u64,
        digest: envelope_digest(head, &file[table..]),
    };
    placement.files.insert(2, entry);
    placement
}

/// A page that comes twice.
pub(crate) fn twice() -> Vec<u8> {
    let mut index = index();
    index.runs[2].pages = PageRange::new(301, 1);
    file_of(&index)
}

/// A run that ends beyond the image.
pub(crate) fn outside() -> Vec<u8> {
    let mut index = index();
    index.runs[2].pages = PageRange::new(16_400, 1);
    file_of(&index)
}

/// The digest of a unit that its bytes do not have, in an index whose own digest is right.
pub(crate) fn other_bytes() -> Vec<u8> {
    let mut index = index();
    index.digests[0] = Digest::of(b"other bytes");
    file_of(&index)
}

/// A working set that does not ask for a reader that knows it.
pub(crate) fn for_older_readers() -> Vec<u8> {
    crate::damaged::with_header_byte(&file(), 14, 3)
}

// spec: WS-01
#[test]
fn a_working_set_says_what_it_said_when_it_was_written() {
    let bytes = golden::read("v0.4/working-set.vms");
    assert_eq!(WorkingSetIndex::read(&bytes), Ok(index()));
    let at = usize::try_from(index().data_offset()).expect("a short file");
    assert_eq!(bytes[at..at + 3 * 4096], data());
    let named = golden::read("v0.4/placement-working-set.vms");
    assert_eq!(Placement::parse(&named), Ok(placement_with_it()));
}

// spec: WS-06
#[test]
fn a_placement_that_names_a_working_set_asks_for_a_reader_that_knows_its_digest() {
    let reader = |placement: &Placement| placement.encode()[14];
    assert_eq!(reader(&placement_with_it()), 4);
    assert_eq!(reader(&placement()), 1);
}
