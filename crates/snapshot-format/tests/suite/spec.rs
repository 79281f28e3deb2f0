//! The specification against the code: examples are bytes of golden files, and every field lies
//! where its table says.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use snapshot_format::page_map::LEAF_HEADER_BYTES;
use snapshot_format::{
    Arch, Codec, DataLayout, Digest, Features, FileKind, FormatVersion, FrameCoding, FrameEntry,
    Header, IndexLeafBuilder, LeafRef, LeafTable, MapRoot, OwnerLeaf, PageRange, SectionEntry,
    SectionKind, SectionTable, SnapshotId, SnapshotRef, WorkingSetIndex, WorkingSetOrigin,
    WorkingSetRun, envelope::WriterName,
};

use crate::cases::layout;
use crate::golden;

const PAGES: [&str; 8] = [
    "00-conventions.md",
    "01-envelope.md",
    "02-page-map.md",
    "03-manifest-and-placement.md",
    "04-machine-state.md",
    "05-versioning.md",
    "11-arm64-state.md",
    "21-working-set.md",
];

fn page(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../specs")
        .join(name);
    fs::read_to_string(path).expect(name)
}

#[test]
fn examples_are_bytes_of_golden_files() {
    let mut examples = 0;
    for name in PAGES {
        let text = page(name);
        for fence in text.split("```hex ").skip(1) {
            let (place, rest) = fence.split_once('\n').expect("a line after the fence");
            let (hex, _) = rest.split_once("```").expect("the end of the fence");
            let (file, offset) = place.split_once('@').expect("file@offset");
            let file = file.strip_prefix("golden/").expect("a golden file");
            let offset = match offset.strip_prefix("0x") {
                Some(digits) => usize::from_str_radix(digits, 16),
                None => offset.parse(),
            };
            let offset = offset.expect("a number");
            let bytes = hex
                .split_whitespace()
                .map(|digits| u8::from_str_radix(digits, 16));
            let bytes: Vec<u8> = bytes.map(|byte| byte.expect("two digits")).collect();
            let golden = golden::read(file);
            assert_eq!(
                bytes,
                golden[offset..offset + bytes.len()],
                "{name}: {place}"
            );
            examples += 1;
        }
    }
    assert!(examples >= 5, "{examples} examples are left");
}

/// The rows of a table of bytes: name, offset, size.
fn rows(page_name: &str, table: &str) -> Vec<(String, usize, usize)> {
    let text = page(page_name);
    let mark = format!("<!-- table: {table} -->\n");
    let (_, table) = text.split_once(&mark).expect("a marked table");
    let lines = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let row = |line: &str| {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let number = |cell: &str| cell.parse().expect("a number");
        (
            cells[4].trim_matches('`').to_owned(),
            number(cells[1]),
            number(cells[2]),
        )
    };
    lines.map(row).collect()
}

/// That the rows follow each other without a hole, and that each field of `bytes` is as expected.
fn check(page_name: &str, table: &str, bytes: &[u8], expected: &[(&str, &[u8])]) {
    let mut expected: BTreeMap<_, _> = expected.iter().copied().collect();
    let mut end = 0;
    for (name, offset, size) in rows(page_name, table) {
        assert_eq!(offset, end, "{table}.{name}");
        end = offset + size;
        let field = &bytes[offset..end];
        let zeros = vec![0; size];
        let reserved = name.starts_with("reserved").then_some(&*zeros);
        let value = expected.remove(&*name).or(reserved).expect(&name);
        assert_eq!(field, value, "{table}.{name}");
    }
    assert_eq!(end, bytes.len(), "{table}");
    assert!(expected.is_empty(), "{table} lacks {expected:?}");
}

// spec: CNV-01
#[test]
fn the_fields_of_a_header_lie_where_the_table_says() {
    let mut header = Header::new(
        FileKind::State,
        Arch::Aarch64,
        SnapshotId([0x11; 16]),
        Some(SnapshotId([0x22; 16])),
    );
    header.version = FormatVersion {
        major: 0x0102,
        minor: 0x0304,
    };
    header.reader_minor = 0x0506;
    header.features = Features {
        read: 0x0708_090a,
        restore: 0x0b0c_0d0e,
        extend: 0x0f10_1112,
        rewrite: 0x1314_1516,
        gc: 0x1718_191a,
    };
    header.table_offset = 0x1b1c_1d1e_1f20_2122;
    header.table_len = 0x2324_2526;
    header.section_count = 0x2728_292a;
    header.file_len = 0x2b2c_2d2e_2f30_3132;
    header.writer = WriterName(*b"abcdefghijklmnop");
    header.table_crc = 0x3334_3536;
    let bytes = header.encode();
    let crc = crc32c::crc32c(&bytes[..124]).to_le_bytes();
    check(
        "01-envelope.md",
        "header",
        &bytes,
        &[
            ("magic", b"\x89VMS\r\n\x1a\n"),
            ("header_len", &[128, 0]),
            ("major", &[2, 1]),
            ("minor", &[4, 3]),
            ("reader_minor", &[6, 5]),
            ("kind", &[4, 0]),
            ("arch", &[2, 0]),
            ("features_read", &[10, 9, 8, 7]),
            ("features_restore", &[14, 13, 12, 11]),
            ("features_extend", &[0x12, 0x11, 0x10, 0xf]),
            ("features_rewrite", &[0x16, 0x15, 0x14, 0x13]),
            ("features_gc", &[0x1a, 0x19, 0x18, 0x17]),
            (
                "table_offset",
                &[0x22, 0x21, 0x20, 0x1f, 0x1e, 0x1d, 0x1c, 0x1b],
            ),
            ("table_len", &[0x26, 0x25, 0x24, 0x23]),
            ("section_count", &[0x2a, 0x29, 0x28, 0x27]),
            (
                "file_len",
                &[0x32, 0x31, 0x30, 0x2f, 0x2e, 0x2d, 0x2c, 0x2b],
            ),
            ("id", &[0x11; 16]),
            ("parent", &[0x22; 16]),
            ("writer", b"abcdefghijklmnop"),
            ("table_crc", &[0x36, 0x35, 0x34, 0x33]),
            ("header_crc", &crc),
        ],
    );
}

#[test]
fn the_fields_of_an_entry_lie_where_the_table_says() {
    let mut entry = SectionEntry::new(
        SectionKind(0x0102_0304),
        0x0506_0708,
        0x090a,
        Codec::Bitcode,
    )
    .located(
        0x1112_1314_1516_1718,
        0x2122_2324_2526_2728,
        Digest([0x31; 32]),
    );
    entry.compression = 0x0b;
    entry.decoded_len = 0x4142_4344_4546_4748;
    check(
        "01-envelope.md",
        "entry",
        &SectionTable::new(vec![entry]).encode(),
        &[
            ("kind", &[4, 3, 2, 1]),
            ("instance", &[8, 7, 6, 5]),
            ("version", &[0xa, 9]),
            ("codec", &[1]),
            ("compression", &[0xb]),
            ("flags", &[1, 0, 0, 0]),
            ("offset", &[0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11]),
            (
                "stored_len",
                &[0x28, 0x27, 0x26, 0x25, 0x24, 0x23, 0x22, 0x21],
            ),
            (
                "decoded_len",
                &[0x48, 0x47, 0x46, 0x45, 0x44, 0x43, 0x42, 0x41],
            ),
            ("digest", &[0x31; 32]),
        ],
    );
}

#[test]
fn the_fields_of_a_root_lie_where_the_table_says() {
    let leaf = LeafRef {
        number: 0x0102_0304,
        file: 0x0506,
        offset: 0x1112_1314_1516_1718,
        len: 0x2122_2324,
        digest: Digest([0x31; 32]),
    };
    let table = LeafTable::new(vec![leaf]).expect("one leaf");
    check(
        "02-page-map.md",
        "leaf-ref",
        &table.encode(),
        &[
            ("number", &[4, 3, 2, 1]),
            ("len", &[0x24, 0x23, 0x22, 0x21]),
            ("offset", &[0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11]),
            ("file", &[6, 5]),
            ("digest", &[0x31; 32]),
        ],
    );
    let root = MapRoot {
        id: SnapshotId([1; 16]),
        parent: Some(SnapshotRef {
            id: SnapshotId([2; 16]),
            digest: Digest([3; 32]),
        }),
        layout: layout(),
        data_layout: DataLayout::Packed,
        unit_pages: 0x0405,
        data_len_bytes: 0x0607_0809_0a0b_0c0d,
        file: 0x0e0f,
        index: table.clone(),
        owners: LeafTable::default(),
    };
    check(
        "02-page-map.md",
        "root",
        &root.encode()[..96],
        &[
            ("id", &[1; 16]),
            ("parent_id", &[2; 16]),
            ("parent_digest", &[3; 32]),
            ("file", &[0xf, 0xe]),
            ("data_layout", &[2, 0]),
            ("unit_pages", &[5, 4]),
            ("data_len", &[0xd, 0xc, 0xb, 0xa, 9, 8, 7, 6]),
            ("region_count", &[3, 0, 0, 0]),
            ("index_count", &[1, 0, 0, 0]),
            ("owner_count", &[0, 0, 0, 0]),
        ],
    );
    let regions = root.encode()[96..].len() - table.encode().len();
    assert_eq!(regions, 3 * 16);
}

#[test]
fn the_fields_of_leaves_lie_where_the_tables_say() {
    let mut leaf = IndexLeafBuilder::new(0x0102_0304, 2).expect("a valid unit");
    leaf.present().insert(8, 3);
    leaf.zero().insert(16_383, 1);
    leaf.digest(Digest([1; 32]));
    leaf.digest(Digest([2; 32]));
    let leaf = leaf.finish(0x1112_1314_1516_1000).expect("two units");
    let (mut present, mut zero) = ([0; 2048], [0; 2048]);
    (present[1], zero[2047]) = (7, 0x80);
    let bytes = leaf.encode();
    check(
        "02-page-map.md",
        "index-leaf",
        &bytes[..bytes.len() - 64],
        &[
            ("mark", &[1, 0]),
            ("unit_pages", &[2, 0]),
            ("number", &[4, 3, 2, 1]),
            (
                "data_offset",
                &[0, 0x10, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11],
            ),
            ("present_count", &[3, 0, 0, 0]),
            ("zero_count", &[1, 0, 0, 0]),
            ("digest_count", &[2, 0, 0, 0]),
            ("present", &present),
            ("zero", &zero),
            ("frame_count", &[0, 0, 0, 0]),
        ],
    );
    check(
        "02-page-map.md",
        "owner-leaf",
        &OwnerLeaf::uniform(0x0102_0304, 0x0506).encode(),
        &[
            ("mark", &[2, 0]),
            ("width", &[0, 0]),
            ("number", &[4, 3, 2, 1]),
            ("uniform", &[6, 5]),
        ],
    );
    let wide = OwnerLeaf::from_fn(1, |page| if page == 5 { 0x0506 } else { 0 }).encode();
    assert_eq!(wide.len(), LEAF_HEADER_BYTES + 2 * 16_384);
    assert_eq!(wide[LEAF_HEADER_BYTES + 10..LEAF_HEADER_BYTES + 12], [6, 5]);
}

#[test]
fn the_fields_of_a_working_set_lie_where_the_tables_say() {
    let index = WorkingSetIndex {
        manifest: Digest([1; 32]),
        page_count: 0x0102_0304,
        origin: WorkingSetOrigin::Present,
        runs: vec![WorkingSetRun {
            pages: PageRange::new(0x0506_0708, 0x090a),
            is_zero: true,
        }],
        digests: Vec::new(),
    };
    let bytes = index.encode();
    let page = "21-working-set.md";
    check(
        page,
        "index",
        &bytes[..64],
        &[
            ("manifest", &[1; 32]),
            ("page_count", &[4, 3, 2, 1, 0, 0, 0, 0]),
            ("run_count", &[1, 0, 0, 0]),
            ("data_pages", &[0; 4]),
            ("unit_pages", &[16, 0]),
            ("origin", &[3, 0]),
        ],
    );
    check(
        page,
        "run",
        &bytes[64..72],
        &[("start", &[8, 7, 6, 5]), ("count", &[0x0a, 9, 0, 0x80])],
    );
}

// spec: CNV-01
#[test]
fn the_fields_of_a_frame_entry_lie_where_the_table_says() {
    let entry = FrameEntry {
        coding: FrameCoding::Zstd,
        stored_len: 0x0fff,
        checksum: 0x0102_0304,
    };
    let mut leaf = IndexLeafBuilder::new(0, 1).expect("a valid unit");
    leaf.present().insert(0, 1);
    leaf.digest(Digest([1; 32]));
    let leaf = leaf.finish_frames(0, vec![entry]).expect("one frame");
    let bytes = leaf.encode();
    assert_eq!(bytes[28..32], [1, 0, 0, 0], "frame_count");
    check(
        "02-page-map.md",
        "frame-entry",
        &bytes[bytes.len() - 8..],
        &[
            ("coding_and_len", &[0xff, 0x0f, 0, 0x20]),
            ("checksum", &[4, 3, 2, 1]),
        ],
    );
}

#[test]
fn limits_are_the_ones_that_the_table_gives() {
    let text = page("00-conventions.md");
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/limits.rs");
    let source = fs::read_to_string(source).expect("the source");
    let (_, limits) = text.split_once("## Limits").expect("a table of limits");
    let mut compared = 0;
    for line in limits.lines().filter(|line| line.starts_with("| `MAX_")) {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let constant = format!("pub const {}: ", cells[1].trim_matches('`'));
        let (_, rest) = source.split_once(&constant).expect(&constant);
        let (_, value) = rest.split_once("= ").expect("a value");
        let (value, _) = value.split_once(';').expect("its end");
        assert_eq!(number(value), number(cells[2]), "{constant}");
        compared += 1;
    }
    assert!(compared >= 19, "{compared} limits are left");
}

/// The value of `1 << 52`, `512 << 10`, `65_536`, `2^52`, `64 MiB` or `4,096`.
fn number(text: &str) -> u64 {
    let plain = |text: &str| {
        let digits: String = text.chars().filter(char::is_ascii_digit).collect();
        digits.parse::<u64>().expect(text)
    };
    if let Some((base, shift)) = text.split_once("<<") {
        return plain(base) << plain(shift);
    }
    if let Some((base, power)) = text.split_once('^') {
        return plain(base).pow(power.parse().expect(power));
    }
    let unit = match text.rsplit(' ').next() {
        Some("MiB") => 1 << 20,
        Some("KiB") => 1 << 10,
        _ => 1,
    };
    plain(text) * unit
}
