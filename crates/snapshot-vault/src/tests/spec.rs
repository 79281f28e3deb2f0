//! The specification against the code: every field lies where its table says.

use std::collections::BTreeMap;

use snapshot_format::{Digest, FrameCoding, GuestAddress, MemoryLayout, MemoryRegion, SnapshotId};

use crate::domain::DomainHead;
use crate::frame::{HEAD_BYTES, ObjectHead};
use crate::pack::{Entry, PackTable, PageMask, RECORD_BYTES, Representation, TAIL_BYTES};
use crate::recipe::{Recipe, RecipeFile};
use crate::{ArchivedKind, ChunkId, DomainId, ObjectId, ObjectKind, RootKey, ScopeName, limits};

const PAGE: &str = include_str!("../../../../specs/40-vault.md");

/// The rows of a table of bytes: name, offset, size. A size that is no number is up to the end.
fn rows(table: &str) -> Vec<(String, usize, Option<usize>)> {
    let mark = format!("<!-- table: {table} -->\n");
    let (_, table) = PAGE.split_once(&mark).expect("a marked table");
    let lines = table.lines().skip(2);
    let lines = lines.take_while(|line| line.starts_with('|'));
    let row = |line: &str| {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let offset = cells[1].parse().expect("an offset");
        (
            cells[4].trim_matches('`').to_owned(),
            offset,
            cells[2].parse().ok(),
        )
    };
    lines.map(row).collect()
}

/// That the rows follow each other without a hole, and that each field of `bytes` is as expected.
fn check(table: &str, bytes: &[u8], expected: &[(&str, &[u8])]) {
    let mut expected: BTreeMap<_, _> = expected.iter().copied().collect();
    let mut end = 0;
    for (name, offset, size) in rows(table) {
        assert_eq!(offset, end, "{table}.{name}");
        end = size.map_or(bytes.len(), |size| offset + size);
        let field = &bytes[offset..end];
        let zeros = vec![0; end - offset];
        let value = match name.as_str() {
            "reserved" => Some(&*zeros),
            // Of the bytes before it.
            "checksum" => {
                assert_eq!(
                    field,
                    crc32c::crc32c(&bytes[..offset]).to_le_bytes(),
                    "{table}"
                );
                Some(field)
            }
            name => expected.remove(name),
        };
        assert_eq!(Some(field), value, "{table}.{name}");
    }
    assert_eq!(end, bytes.len(), "{table}");
    assert!(expected.is_empty(), "{table} lacks {expected:?}");
}

fn entry() -> Entry {
    Entry {
        id: ChunkId([0x33; 32]),
        representation: Representation::Delta {
            base: ChunkId([0x44; 32]),
            mask: PageMask(0x0102),
        },
        coding: FrameCoding::Zstd,
        stored_len: 0x0001_0010,
        payload_checksum: 0x0506_0708,
        offset: 64,
    }
}

#[test]
fn the_head_of_an_object_lies_as_the_table_says() {
    let head = ObjectHead {
        kind: ObjectKind::Tombstone,
        domain: DomainId([0x11; 16]),
        id: ObjectId([0x22; 16]),
        body_len: 0x0102_0304_0506_0708,
    };
    let bytes = head.encode();
    assert_eq!(bytes.len(), HEAD_BYTES);
    let expected: [(&str, &[u8]); 7] = [
        ("magic", b"\x89VMV\r\n\x1a\n"),
        ("version", &[1, 0]),
        ("kind", &[7, 0]),
        ("features", &[0; 4]),
        ("domain", &[0x11; 16]),
        ("id", &[0x22; 16]),
        ("body_len", &[8, 7, 6, 5, 4, 3, 2, 1]),
    ];
    check("object-head", &bytes, &expected);
}

#[test]
fn a_record_lies_as_the_table_says() {
    let bytes = entry().encode_record();
    assert_eq!(bytes.len(), RECORD_BYTES);
    let expected: [(&str, &[u8]); 8] = [
        ("magic", b"vck1"),
        ("representation", &[2]),
        ("codec", &[2]),
        ("mask", &[2, 1]),
        ("stored_len", &[0x10, 0, 1, 0]),
        ("payload_checksum", &[8, 7, 6, 5]),
        ("id", &[0x33; 32]),
        ("base", &[0x44; 32]),
    ];
    check("record", &bytes, &expected);
}

#[test]
fn the_table_and_the_tail_of_a_pack_lie_as_the_tables_say() {
    let table = PackTable {
        entries: vec![entry()],
    };
    let (head, key) = ([0x55; HEAD_BYTES], [0x66; 32]);
    let bytes = table.encode(&head, 0x0102_0304, &key);
    let (entries, tail) = bytes.split_at(bytes.len() - TAIL_BYTES);
    assert_eq!(entries[..76], entry().encode_record()[4..80]);
    assert_eq!(entries[76..], 64_u32.to_le_bytes());
    let mut hasher = blake3::Hasher::new_keyed(&key);
    let digest = hasher.update(&head).update(entries).finalize();
    let expected: [(&str, &[u8]); 4] = [
        ("magic", b"vmv-tail"),
        ("table_offset", &[4, 3, 2, 1, 0, 0, 0, 0]),
        ("entry_count", &[1, 0, 0, 0]),
        ("digest", digest.as_bytes()),
    ];
    check("pack-tail", tail, &expected);
}

#[test]
fn the_body_of_a_domain_lies_as_the_table_says() {
    let head = DomainHead {
        scope: ScopeName::new("tenant").unwrap(),
        root: Some(RootKey([0x77; 32])),
    };
    let expected: [(&str, &[u8]); 4] = [
        ("sealing", &[0, 0]),
        ("scope_len", &[6, 0]),
        ("root_key", &[0x77; 32]),
        ("scope", b"tenant"),
    ];
    check("domain", &head.encode(), &expected);
}

#[test]
fn the_body_of_a_recipe_lies_as_the_table_says() {
    let region = MemoryRegion {
        start: GuestAddress(0x1000),
        len_bytes: 0x3000,
    };
    let recipe = Recipe {
        snapshot: SnapshotId([0x11; 16]),
        manifest: Digest([0x22; 32]),
        layout: Some(MemoryLayout::new(vec![region]).unwrap()),
        leaves: vec![(0, ChunkId([0x33; 32]))],
        files: vec![RecipeFile {
            kind: ArchivedKind::MANIFEST,
            index: 5,
            len_bytes: 700,
            digest: Digest([0x22; 32]),
            chunks: vec![ChunkId([0x44; 32])],
        }],
    };
    let body = recipe.encode();
    let expected: [(&str, &[u8]); 6] = [
        ("snapshot", &[0x11; 16]),
        ("manifest", &[0x22; 32]),
        ("page_count", &[3, 0, 0, 0, 0, 0, 0, 0]),
        ("region_count", &[1, 0, 0, 0]),
        ("leaf_count", &[1, 0, 0, 0]),
        ("file_count", &[1, 0, 0, 0]),
    ];
    check("recipe", &body[..72], &expected);
    let rest = [
        &0x1000_u64.to_le_bytes()[..],
        &0x3000_u64.to_le_bytes(),
        &[0; 4],
        &[0x33; 32],
        &[2, 0, 5, 0, 1, 0, 0, 0],
        &700_u64.to_le_bytes(),
        &[0x22; 32],
        &[0x44; 32],
    ];
    assert_eq!(body[72..], rest.concat());
}

#[test]
fn the_limits_are_those_of_the_page() {
    let rows = [
        ("Bytes of a pack; a writer closes one at 32 MiB", "64 MiB"),
        ("Records of a pack", "65,536"),
        ("Bytes of any other object", "16 MiB"),
        ("Bytes of a file in a recipe", "1 GiB"),
        ("Packs of a domain", "1,048,576"),
        ("Packs that a tombstone names", "65,536"),
        ("Pages of a delta that a writer makes", "8"),
    ];
    for (what, cap) in rows {
        let row = format!("| {what} | {cap} |");
        assert!(PAGE.contains(&row), "{row}");
    }
    assert_eq!(limits::MAX_PACK_BYTES, 64 << 20);
    assert_eq!(limits::PACK_BYTES, 32 << 20);
    assert_eq!(limits::MAX_PACK_RECORDS, 65_536);
    assert_eq!(limits::MAX_OBJECT_BYTES, 16 << 20);
    assert_eq!(limits::MAX_RECIPE_FILE_BYTES, 1 << 30);
    assert_eq!(limits::MAX_PACKS, 1_048_576);
    assert_eq!(limits::MAX_CONDEMNED, 65_536);
    assert_eq!(limits::MAX_DELTA_PAGES, 8);
}
