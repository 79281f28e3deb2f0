//! Frames that no builder makes: holes, lost sections, payloads under another kind.

use snapshot_format::state::DeviceState;
use snapshot_format::{
    Arch, Codec, Content, Digest, Envelope, EnvelopeBuilder, ErrorKind, FileKind, Header, Manifest,
    MapRoot, OwnerLeaf, SectionEntry, SectionKind, SectionPayload, SectionTable,
};

use crate::cases::{FULL, empty, manifest_full, map_diff, placement, state, write_map};
use crate::damaged::with_header_byte;
use crate::rules::{corrupt, poked, refused};

/// A file of eight bytes of content, whose table has these entries.
fn file(entries: &[(u64, u64)]) -> Vec<u8> {
    let entries = (0..).zip(entries).map(|(instance, &(offset, len))| {
        SectionEntry::new(SectionKind::CALLER, instance, 1, Codec::Raw).located(
            offset,
            len,
            Digest::of(&[]),
        )
    });
    let table = SectionTable::new(entries.collect());
    let header = Header::new(FileKind::State, Arch::None, FULL, None);
    let (mut header, table) = table.close(header);
    header.table_offset = 136;
    header.file_len = 136 + table.len() as u64;
    [header.encode().as_slice(), &[0; 8], &table].concat()
}

// spec: ENV-06
#[test]
fn sections_leave_no_hole() {
    corrupt(Envelope::parse(&file(&[(136, 0)])), "back to back");
    corrupt(
        Envelope::parse(&file(&[(128, 0)])),
        "follows the last section",
    );
    corrupt(Envelope::parse(&file(&[])), "follows the last section");
    corrupt(
        Envelope::parse(&file(&[(128, 0), (128, 1), (136, 1)])),
        "back to back",
    );
    Envelope::parse(&file(&[(128, 0), (128, 3), (136, 0)])).expect("no hole");
}

// spec: ENV-04
#[test]
fn a_table_starts_at_a_multiple_of_8() {
    let mut file = empty();
    file.push(0);
    let file = with_header_byte(&with_header_byte(&file, 40, 129), 56, 129);
    corrupt(Envelope::parse(&file), "starts at a multiple of 8");
}

// spec: VER-02
#[test]
fn another_major_version_is_refused_whatever_its_minor() {
    let file = with_header_byte(&manifest_full().encode(), 10, 1);
    refused(Manifest::parse(&file), ErrorKind::TooNew, "format 1.1");
}

// spec: ENV-12
#[test]
fn files_hold_no_critical_section_of_another_sort() {
    let extra = SectionPayload::raw(SectionKind::CALLER, 0, 1, vec![1]);
    let with = |kind, file: &[u8], extra: &SectionPayload| {
        let envelope = Envelope::parse(file).expect("a sound file");
        let header = envelope.header();
        let builder = EnvelopeBuilder::new(kind, header.arch, header.id).parent(header.parent);
        let sections = envelope.payloads().expect("sound sections");
        let file = sections.iter().fold(builder, EnvelopeBuilder::section);
        Content::read(&file.section(extra).finish())
    };
    let files = [
        (FileKind::Manifest, manifest_full().encode()),
        (FileKind::Placement, placement().encode()),
        (FileKind::MemoryMap, map_diff().bytes),
    ];
    for (kind, file) in files {
        refused(
            with(kind, &file, &extra),
            ErrorKind::Unsupported,
            "must be understood",
        );
        with(kind, &file, &extra.clone().with_critical(false)).expect("a section to ignore");
    }
}

#[test]
fn a_payload_is_not_read_as_another() {
    let device = SectionPayload::of(0, &DeviceState::default());
    device.value::<DeviceState>().expect("a device");
    let raw = SectionPayload {
        codec: Codec::Raw,
        ..device.clone()
    };
    refused(
        raw.value::<DeviceState>(),
        ErrorKind::Unsupported,
        "its codec",
    );
    let clock = SectionPayload {
        kind: SectionKind::CLOCK,
        ..device
    };
    corrupt(
        clock.value::<DeviceState>(),
        "the kind of the section is clock",
    );
}

// spec: MAP-11, ENV-08
#[test]
fn a_root_is_checked_by_whoever_reads_a_map_in_parts() {
    let map = map_diff();
    let envelope = Envelope::parse(&map.bytes).expect("a sound map");
    let (header, table) = (envelope.header(), envelope.table());
    let root = map.root.encode();
    assert_eq!(MapRoot::parse(header, table, &root), Ok(map.root.clone()));
    corrupt(
        MapRoot::parse(header, table, &poked(&root, 72, &[1])),
        "digest",
    );
    corrupt(
        MapRoot::parse(header, table, &root[1..]),
        "bytes are declared",
    );
    let other = state().encode();
    let other = Envelope::parse(&other).expect("a sound file");
    let parsed = MapRoot::parse(other.header(), other.table(), &root);
    corrupt(parsed, "a memory map file is expected");

    // The section of leaves ends before the last leaf does.
    let mut entries = table.entries().to_vec();
    entries[0].stored_len -= 8;
    let short = SectionTable::new(entries);
    corrupt(
        MapRoot::parse(header, &short, &root),
        "the section of leaves",
    );
}

// spec: MAP-08
#[test]
fn a_whole_map_is_checked_with_its_leaves() {
    let map = map_diff();
    let beyond = vec![OwnerLeaf::uniform(0, 3)];
    let file = write_map(map.root, map.index, beyond).bytes;
    corrupt(Content::read(&file), "a data file that the map knows");
}
