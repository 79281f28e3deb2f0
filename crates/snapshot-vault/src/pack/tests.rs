use snapshot_format::FrameCoding;

use super::*;
use crate::error::FormatError;
use crate::frame::{HEAD_BYTES, ObjectHead};
use crate::id::{ChunkId, DomainId};
use crate::objects::ObjectKind;
use crate::secrets::{RootKey, Secrets};

const DOMAIN: DomainId = DomainId([1; 16]);

fn secrets(is_sealed: bool) -> Secrets {
    Secrets::derive(DOMAIN, &RootKey([2; 32]), is_sealed)
}

/// A pack of a full record and two deltas, of which one is of the chunk of another pack.
fn built(secrets: &Secrets) -> BuiltPack {
    let mut pack = PackBuilder::new(DOMAIN).unwrap();
    let mask = PageMask(0b1000_0000_0000_0001);
    let delta = |base| Representation::Delta {
        base: ChunkId([base; 32]),
        mask,
    };
    let records = [
        (5, Representation::Full, FrameCoding::Zstd, vec![1; 700]),
        (6, delta(5), FrameCoding::Plain, vec![2; 8192]),
        (7, delta(9), FrameCoding::Lz4, vec![3; 90]),
    ];
    for (id, representation, coding, payload) in records {
        let id = ChunkId([id; 32]);
        pack.push(id, representation, coding, &payload, secrets)
            .unwrap();
    }
    pack.finish(secrets)
}

fn parse(
    bytes: &[u8],
    id: crate::id::ObjectId,
    secrets: &Secrets,
) -> Result<PackTable, FormatError> {
    let len = bytes.len() as u64;
    let head = ObjectHead::parse(bytes, ObjectKind::Pack, DOMAIN, id)?;
    check_len(&head, len)?;
    let at = bytes.len().saturating_sub(TAIL_BYTES);
    let tail = PackTail::parse(&bytes[at..], len)?;
    let start = usize::try_from(tail.table_offset).unwrap();
    let table = &bytes[start..start + tail.table_len()];
    PackTable::parse(&bytes[..HEAD_BYTES], table, &tail, secrets.object_key())
}

#[test]
fn a_pack_says_what_it_holds() {
    for is_sealed in [false, true] {
        let secrets = secrets(is_sealed);
        let pack = built(&secrets);
        let table = parse(&pack.bytes, pack.id, &secrets).unwrap();
        assert_eq!(table, pack.table);
        let ids: Vec<u8> = table.entries.iter().map(|entry| entry.id.0[0]).collect();
        assert_eq!(ids, [5, 6, 7]);
        let tag = if is_sealed { 16 } else { 0 };
        assert_eq!(table.entries[0].stored_len, 700 + tag);
        assert_eq!(
            table.entries[1].representation.base(),
            Some(ChunkId([5; 32]))
        );
        assert_eq!(table.entries[1].representation.decoded_len(), 8192);
    }
}

// spec: VLT-09
#[test]
fn a_pack_without_a_table_is_indexed_from_its_records_without_a_key() {
    let pack = built(&secrets(true));
    let records_end = usize::try_from(pack.table.entries[2].end()).unwrap();
    assert_eq!(scan(&pack.bytes), pack.table);
    assert_eq!(scan(&pack.bytes[..records_end]), pack.table);
    assert_eq!(
        scan(&pack.bytes[..records_end - 1]).entries,
        pack.table.entries[..2]
    );
}

// spec: VLT-04
#[test]
fn records_with_a_gap_between_them_are_refused_also_by_a_right_digest() {
    let secrets = secrets(false);
    let pack = built(&secrets);
    let head = &pack.bytes[..HEAD_BYTES];
    let table_offset = pack.table.entries[2].end();
    let changes: [fn(&mut PackTable); 4] = [
        |table| table.entries[1].offset += 1,
        |table| table.entries[0].stored_len -= 1,
        |table| table.entries.swap(0, 1),
        |table| table.entries.truncate(2),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut lying = pack.table.clone();
        change(&mut lying);
        let written = lying.encode(head, table_offset, secrets.object_key());
        let (table, tail) = written.split_at(written.len() - TAIL_BYTES);
        let pack_len = table_offset + written.len() as u64;
        let tail = PackTail::parse(tail, pack_len).unwrap();
        let parsed = PackTable::parse(head, table, &tail, secrets.object_key());
        assert!(
            matches!(parsed, Err(FormatError::Invalid { .. })),
            "change {number}: {parsed:?}"
        );
    }
}

// spec: VLT-05
#[test]
fn a_delta_of_itself_and_every_other_impossible_record_is_refused() {
    let entry = built(&secrets(false)).table.entries[1];
    let encoded = |change: fn(&mut Vec<u8>)| {
        let mut bytes = entry.encode_record();
        bytes.truncate(RECORD_BYTES - 4);
        change(&mut bytes);
        let checksum = crc32c::crc32c(&bytes).to_le_bytes();
        bytes.extend(checksum);
        parse_record(&bytes, entry.offset)
    };
    assert_eq!(encoded(|_| {}), Ok(entry));
    let changes: [fn(&mut Vec<u8>); 9] = [
        |bytes| bytes.copy_within(16..48, 48),
        |bytes| bytes[4] = 0,
        |bytes| bytes[4] = 3,
        |bytes| bytes[4] = 1,
        |bytes| bytes[5] = 3,
        |bytes| bytes[6..8].fill(0),
        |bytes| bytes[8..12].fill(0),
        |bytes| bytes[8..12].fill(0xFF),
        |bytes| bytes[80] = 1,
    ];
    for (number, change) in changes.into_iter().enumerate() {
        assert!(encoded(change).is_err(), "change {number} was accepted");
    }
}

#[test]
fn every_flipped_bit_outside_of_payloads_is_found_when_a_pack_is_opened() {
    let secrets = secrets(false);
    let pack = built(&secrets);
    let records = HEAD_BYTES..usize::try_from(pack.table.entries[2].end()).unwrap();
    for at in (0..pack.bytes.len()).filter(|at| !records.contains(at)) {
        let mut flipped = pack.bytes.clone();
        flipped[at] ^= 0x10;
        assert!(parse(&flipped, pack.id, &secrets).is_err(), "byte {at}");
    }
    for len in HEAD_BYTES + TAIL_BYTES..pack.bytes.len() {
        assert!(
            parse(&pack.bytes[..len], pack.id, &secrets).is_err(),
            "cut to {len}"
        );
    }
}
