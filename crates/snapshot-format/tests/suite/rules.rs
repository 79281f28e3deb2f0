//! One rule broken at a time, behind checksums and digests that are right.

use snapshot_format::envelope::SECTION_ENTRY_BYTES;
use snapshot_format::{
    Arch, Codec, DataLayout, DecodeError, Envelope, EnvelopeBuilder, ErrorKind, FORMAT, FileKind,
    Header, IndexLeaf, LabelValue, LeafTable, Manifest, MapRoot, Operation, OwnerLeaf, SectionKind,
    SectionOffers, SectionPayload, SnapshotName, StateFile, StatePayload, VmName, inspect, limits,
};

use crate::cases::{FULL, empty, manifest_full, map_diff, state};
use crate::damaged::{with_header_byte, with_table_bytes};
use crate::golden;

/// That a parser refused something, and for which reason.
pub(crate) fn refused<T: std::fmt::Debug>(
    result: Result<T, DecodeError>,
    kind: ErrorKind,
    reason: &str,
) {
    let error = result.expect_err(reason);
    let message = snapshot_format::Problem::from(&error).message;
    assert!(
        message.contains(reason),
        "{message:?} does not say {reason:?}"
    );
    assert_eq!(error.kind(), kind, "{message}");
}

pub(crate) fn corrupt<T: std::fmt::Debug>(result: Result<T, DecodeError>, reason: &str) {
    refused(result, ErrorKind::Corrupt, reason);
}

/// The bytes with others from `offset` on.
pub(crate) fn poked(bytes: &[u8], offset: usize, new: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[offset..offset + new.len()].copy_from_slice(new);
    bytes
}

// spec: CNV-02
#[test]
fn reserved_bytes_and_padding_are_zero() {
    let file = empty();
    for offset in 112..120 {
        corrupt(
            Envelope::parse(&with_header_byte(&file, offset, 1)),
            "must be zero",
        );
    }
    let padded = state().encode();
    for offset in [128 + 6, 128 + 7, 136 + 12, 136 + 15] {
        corrupt(
            Envelope::parse(&poked(&padded, offset, &[1])),
            "must be zero",
        );
    }
    let map = map_diff();
    for offset in (70..72).chain(92..96) {
        corrupt(
            MapRoot::decode(&poked(&map.root.encode(), offset, &[1])),
            "must be zero",
        );
    }
    for offset in 18..24 {
        let table = map.root.index.encode();
        corrupt(
            LeafTable::parse(&poked(&table, offset, &[1])),
            "must be zero",
        );
    }
    for offset in 10..32 {
        let leaf = OwnerLeaf::uniform(0, 1).encode();
        corrupt(
            OwnerLeaf::parse(&poked(&leaf, offset, &[1]), 0, 1),
            "must be zero",
        );
    }
}

// spec: CNV-03
#[test]
fn counts_and_lengths_are_compared_before_they_are_used() {
    let limit = ErrorKind::Limit;
    let file = empty();
    refused(
        Envelope::parse(&with_header_byte(&file, 55, 0xff)),
        limit,
        "sections",
    );
    let root = map_diff().root.encode();
    refused(
        MapRoot::decode(&poked(&root, 80, &[0xff; 4])),
        limit,
        "memory regions",
    );
    for offset in [84, 88] {
        refused(
            MapRoot::decode(&poked(&root, offset, &[0xff; 4])),
            limit,
            "leaves",
        );
        corrupt(
            MapRoot::decode(&poked(&root, offset, &[0, 0, 1, 0])),
            "bytes are declared",
        );
    }
    let table = vec![0; (limits::MAX_LEAVES + 1) * 56];
    refused(LeafTable::parse(&table), limit, "leaves");
    let leaf = map_diff().index[0].encode();
    corrupt(
        IndexLeaf::parse(&poked(&leaf, 24, &[0xff; 4]), 0),
        "a digest for each unit",
    );
    corrupt(
        IndexLeaf::parse(&leaf[..leaf.len() - 1], 0),
        "bytes are declared",
    );
    let mut longer = leaf;
    longer.push(0);
    corrupt(IndexLeaf::parse(&longer, 0), "bytes are declared");
}

// spec: CNV-04
#[test]
fn names_follow_their_grammar() {
    let longest = "a".repeat(limits::MAX_NAME_BYTES);
    for name in ["a", "0", "A.b_c-D", "web-1", &longest] {
        assert_eq!(
            VmName::new(name).map(|name| name.to_string()).as_deref(),
            Ok(name)
        );
    }
    let too_long = "a".repeat(limits::MAX_NAME_BYTES + 1);
    for name in [
        "", ".", "-a", "_a", "a/b", "a@b", "a b", "ü", "a\0", "..", &too_long,
    ] {
        let error = SnapshotName::new(name).expect_err(name);
        assert!(
            error.to_string().contains("is no name of a snapshot"),
            "{error}"
        );
    }
    let (upper, lower) = (VmName::new("Web"), VmName::new("web"));
    assert_ne!(upper, lower);
    assert_eq!(upper.map(|name| name.key()), lower.map(|name| name.key()));
    LabelValue::new("x".repeat(limits::MAX_LABEL_VALUE_BYTES)).expect("a value at its limit");
    LabelValue::new("x".repeat(limits::MAX_LABEL_VALUE_BYTES + 1)).expect_err("too long");
    LabelValue::new("two\nlines").expect_err("a control character");
}

// spec: CNV-06
#[test]
fn a_layout_in_a_file_is_checked() {
    let root = map_diff().root.encode();
    corrupt(
        MapRoot::decode(&poked(&root, 96, &[1])),
        "must be multiples of 4096",
    );
    corrupt(
        MapRoot::decode(&poked(&root, 96 + 8, &[0; 8])),
        "the length not zero",
    );
    corrupt(MapRoot::decode(&poked(&root, 96 + 16, &[0; 8])), "overlaps");
    corrupt(
        MapRoot::decode(&poked(&root, 96 + 40, &[0xff; 8])),
        "multiples",
    );
    corrupt(
        MapRoot::decode(&poked(&root, 96 + 47, &[0x80])),
        "beyond the guest address limit",
    );
    corrupt(
        MapRoot::decode(&poked(&root, 80, &[0])),
        "at least one region",
    );
}

// spec: CNV-08, ENV-01, ENV-08, VER-01
#[test]
fn length_comes_before_digest_and_digest_before_meaning() {
    let manifest = manifest_full().encode();
    // A header whose every later field is wrong too.
    let mut wrong = manifest.clone();
    wrong[8..128].fill(0xff);
    corrupt(Header::parse(&wrong[..100], 0), "128 bytes are declared");
    corrupt(Header::parse(&wrong, 0), "checksum");
    wrong[0] = 0;
    corrupt(Header::parse(&wrong, 0), "no vmsnap file");
    corrupt(
        Header::parse(&with_header_byte(&wrong, 0, 0x89), 0),
        "128 bytes",
    );
    let future = with_header_byte(&with_header_byte(&manifest, 16, 99), 14, 0xfe);
    refused(Header::parse(&future, 0), ErrorKind::TooNew, "format 0.254");
    corrupt(
        Header::parse(&with_header_byte(&manifest, 16, 99), 0),
        "a known kind",
    );
    corrupt(Header::parse(&manifest, 0), "bytes are declared");
    // A payload that does not decode is never decoded while its digest is wrong.
    let garbage = SectionPayload {
        codec: Codec::Bitcode,
        ..SectionPayload::raw(SectionKind::MANIFEST, 0, 1, vec![0xff; 9])
    };
    let builder = EnvelopeBuilder::new(FileKind::Manifest, Arch::None, FULL);
    let file = builder.section(&garbage).finish();
    corrupt(Manifest::parse(&file), "9 bytes do not decode");
    corrupt(Manifest::parse(&poked(&file, 128, &[0])), "digest");
    corrupt(
        Envelope::parse(&file)
            .expect("sound")
            .section(SectionKind::STORE, 0),
        "is missing",
    );
}

// spec: ENV-04
#[test]
fn the_table_ends_the_file() {
    let file = state().encode();
    corrupt(
        Envelope::parse(&with_header_byte(&file, 48, 1)),
        "72 bytes a section",
    );
    corrupt(
        Envelope::parse(&with_header_byte(&file, 52, 2)),
        "72 bytes a section",
    );
    corrupt(
        Envelope::parse(&with_header_byte(&file, 40, 0x90)),
        "ends the file",
    );
    corrupt(
        Envelope::parse(&with_header_byte(&file, 47, 0xff)),
        "ends the file",
    );
    corrupt(
        Envelope::parse(&with_header_byte(&file, 56, 1)),
        "ends the file",
    );
}

// spec: ENV-05, ENV-06, ENV-07, ENV-09, ENV-10
#[test]
fn entries_are_checked_behind_their_checksum() {
    let file = state().encode();
    let entry = |offset, new: &[u8]| with_table_bytes(&file, offset, new);
    let table_at = file.len() - 3 * SECTION_ENTRY_BYTES;
    corrupt(
        Envelope::parse(&poked(&file, table_at + 12, &[0xff])),
        "section table at offset",
    );
    corrupt(Envelope::parse(&entry(12, &[3])), "unknown flags");
    corrupt(Envelope::parse(&entry(12 + 3, &[1])), "unknown flags");
    corrupt(Envelope::parse(&entry(32, &[7])), "two equal lengths");
    corrupt(Envelope::parse(&entry(16, &[136])), "back to back");
    let both = [7u64.to_le_bytes(), 7u64.to_le_bytes()].concat();
    let longer = entry(24, &both);
    let longer = Envelope::parse(&longer).expect("a section that takes a byte of padding");
    corrupt(longer.offers(), "digest");
    let long = [u64::MAX.to_le_bytes(), u64::MAX.to_le_bytes()].concat();
    corrupt(Envelope::parse(&entry(24, &long)), "back to back");
    corrupt(Envelope::parse(&entry(72 + 4, &[0])), "comes once");
}

// spec: ENV-11
#[test]
fn an_unknown_encoding_is_refused_where_it_matters() {
    let file = state().encode();
    for offset in [10, 11] {
        let critical = with_table_bytes(&file, offset, &[9]);
        let critical = Envelope::parse(&critical).expect("a sound frame");
        refused(critical.offers(), ErrorKind::Unsupported, "is unknown");
        // The third section is not critical: it is left out.
        let other = with_table_bytes(&file, 2 * SECTION_ENTRY_BYTES + offset, &[9]);
        let sections = StateFile::parse(&other).expect("a file to read").sections;
        assert_eq!(sections, state().sections[..2]);
    }
}

/// A payload of one byte, to take.
#[derive(PartialEq, Debug)]
struct Byte(u8);

impl StatePayload for Byte {
    const KIND: SectionKind = SectionKind(SectionKind::CALLER.0 + 1);
    const VERSION: u16 = 2;
    const CODEC: Codec = Codec::Raw;

    fn encode(&self) -> Vec<u8> {
        vec![self.0]
    }

    fn decode(_version: u16, bytes: &[u8]) -> Result<Self, DecodeError> {
        match bytes {
            [byte] => Ok(Self(*byte)),
            _ => Err(DecodeError::Length {
                part: Self::KIND.part(0),
                offset: 0,
                needed: 1,
                found: bytes.len() as u64,
            }),
        }
    }
}

// spec: ENV-12
#[test]
fn what_nobody_took_is_refused() {
    let sections = vec![
        SectionPayload::of(3, &Byte(30)),
        SectionPayload::raw(SectionKind::CALLER, 0, 1, vec![1]),
        SectionPayload::of(1, &Byte(10)),
        SectionPayload::raw(SectionKind::CALLER, 1, 1, vec![1]).with_critical(false),
    ];
    let mut offers = SectionOffers::new(sections);
    corrupt(offers.take::<Byte>(2), "is missing");
    assert_eq!(offers.take_optional::<Byte>(2), Ok(None));
    assert_eq!(offers.take_all(), Ok(vec![(1, Byte(10)), (3, Byte(30))]));
    let left: Vec<_> = offers.remaining().collect();
    assert_eq!(left, [(SectionKind::CALLER, 0), (SectionKind::CALLER, 1)]);
    refused(
        offers.clone().finish(),
        ErrorKind::Unsupported,
        "nobody took it",
    );
    offers
        .take_payload(SectionKind::CALLER, 0)
        .expect("a section");
    assert_eq!(offers.finish(), Ok(()));
}

// spec: VER-04
#[test]
fn a_payload_from_the_future_names_both_versions() {
    let newer = SectionPayload {
        version: 3,
        ..SectionPayload::of(0, &Byte(1))
    };
    let mut offers = SectionOffers::new(vec![newer]);
    let reason = "version 3, this build reads up to 2";
    refused(offers.take::<Byte>(0), ErrorKind::Unsupported, reason);
    let older = SectionPayload {
        version: 1,
        ..SectionPayload::of(0, &Byte(1))
    };
    assert_eq!(SectionOffers::new(vec![older]).take(0), Ok(Byte(1)));
    let entry_of_root = SECTION_ENTRY_BYTES + 8;
    let map = with_table_bytes(&map_diff().bytes, entry_of_root, &[2]);
    refused(
        golden::parse_fully(&map),
        ErrorKind::Unsupported,
        "this build reads up to 1",
    );
}

// spec: ENV-13
#[test]
fn a_file_has_an_id_and_a_writer_in_plain_text() {
    let file = empty();
    let nil = (64..80).fold(file.clone(), |file, offset| {
        with_header_byte(&file, offset, 0)
    });
    corrupt(Envelope::parse(&nil), "the id must not be zero");
    for (offset, byte) in [(96, 7), (97, 0), (96, 0x80), (111, b'x')] {
        let file = with_header_byte(&file, offset, byte);
        corrupt(Envelope::parse(&file), "printable ASCII");
    }
}

// spec: ENV-14
#[test]
fn long_files_and_sections_are_refused() {
    let section = |len: u64| {
        let len = usize::try_from(len).expect("a length in memory");
        let section = SectionPayload::raw(SectionKind::CALLER, 0, 1, vec![0; len]);
        EnvelopeBuilder::new(FileKind::State, Arch::None, FULL)
            .section(&section)
            .finish()
    };
    Envelope::parse(&section(limits::MAX_SECTION_BYTES)).expect("a section at its limit");
    let file = section(limits::MAX_SECTION_BYTES + 1);
    refused(Envelope::parse(&file), ErrorKind::Limit, "at most 16777216");
    let file = vec![0; usize::try_from(limits::MAX_ENVELOPE_BYTES).expect("a length") + 1];
    refused(Envelope::parse(&file), ErrorKind::Limit, "at most 67108864");
}

// spec: ENV-15, VER-02, VER-08
#[test]
fn a_file_from_the_future_is_shown_and_refused() {
    let file = golden::read("v0.2/corrupt/later.vms");
    refused(Manifest::parse(&file), ErrorKind::TooNew, "format 0.65281");
    let view = inspect(&file, file.len() as u64);
    let header = view.header.expect("a header");
    assert!(header.sound);
    assert_eq!(header.readable_from.to_string(), "0.65281");
    assert_eq!((header.kind.as_str(), header.id), ("manifest", FULL));
    assert_eq!(view.sections.len(), 3);
    assert!(
        view.sections
            .iter()
            .all(|section| section.sound == Some(true))
    );
    assert_eq!(view.error.map(|error| error.kind), Some(ErrorKind::TooNew));
    let major = with_header_byte(&file, 10, 1);
    refused(Manifest::parse(&major), ErrorKind::TooNew, "format 1.65281");
}

#[test]
fn what_can_be_read_of_a_damaged_file_is_shown() {
    let mut file = manifest_full().encode();
    file[130] ^= 1;
    let view = inspect(&file, file.len() as u64);
    let sound: Vec<_> = view.sections.iter().map(|section| section.sound).collect();
    assert_eq!(sound, [Some(false), Some(true), Some(true)]);
    assert_eq!(view.error.and_then(|error| error.offset), Some(128));
    // Only the first 128 bytes of a long file.
    let view = inspect(&file[..128], file.len() as u64);
    assert!(view.header.is_some_and(|header| header.sound));
    assert_eq!(view.sections, []);
    // Both ends of it.
    let table = snapshot_format::table_range(&file).expect("a sound header");
    let start = usize::try_from(table.start).expect("a short file");
    let view = snapshot_format::inspect_ends(&file[..128], &file[start..], file.len() as u64);
    assert_eq!((view.sections.len(), view.error), (3, None));
}

// spec: VER-03
#[test]
fn an_unknown_feature_refuses_its_operation_only() {
    let file = manifest_full().encode();
    for (index, operation) in Operation::ALL.into_iter().enumerate() {
        let file = with_header_byte(&file, 20 + 4 * index + 3, 0x80);
        let header = Header::parse(&file, file.len() as u64).expect("a sound header");
        for other in Operation::ALL {
            let allowed = header.allows(other);
            if other == operation {
                refused(allowed, ErrorKind::Unsupported, "0x80000000");
            } else {
                assert_eq!(allowed, Ok(()));
            }
        }
        let read = Manifest::parse(&file);
        assert_eq!(read.is_ok(), operation != Operation::Read, "{operation:?}");
    }
}

// spec: VER-05
#[test]
fn writers_stamp_a_version_that_they_read_themselves() {
    let header = Header::new(FileKind::State, Arch::None, FULL, None);
    assert_eq!(header.version, FORMAT);
    assert_eq!(header.reader_minor, 1);
    for (data_layout, minor) in [
        (DataLayout::Sparse, 1),
        (DataLayout::Packed, 1),
        (DataLayout::Frames, 2),
    ] {
        assert_eq!(data_layout.reader_minor(), minor, "{data_layout:?}");
    }
}

// spec: VER-09
#[test]
fn unknown_numbers_of_this_version_are_damage() {
    let file = manifest_full().encode();
    corrupt(
        Manifest::parse(&with_header_byte(&file, 16, 7)),
        "a known kind of file",
    );
    corrupt(
        Manifest::parse(&with_header_byte(&file, 18, 9)),
        "a known architecture",
    );
    corrupt(
        Manifest::parse(&with_header_byte(&file, 16, 4)),
        "this is a state file",
    );
}
