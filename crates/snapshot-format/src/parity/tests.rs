use super::*;
use crate::{DecodeError, Digest, ErrorKind, FileKind, SnapshotId};

fn table() -> ParityTable {
    let file = |kind, shards: &[u8], recovery: usize| ParityFile {
        kind,
        index: 0,
        len_bytes: shards.len() as u64 * 64 - 3,
        digest: Digest([9; 32]),
        shard_bytes: 64,
        group: 2,
        recovery_of_group: 1,
        shards: shards.iter().map(|byte| Digest([*byte; 32])).collect(),
        recovery: vec![Digest([7; 32]); recovery],
    };
    ParityTable {
        id: SnapshotId([5; 16]),
        files: vec![
            file(FileKind::Manifest, &[1], 1),
            file(FileKind::MemoryData, &[1, 0, 2, 3], 2),
        ],
    }
}

// spec: PAR-01
// spec: PAR-02
#[test]
fn head_and_table_are_what_they_were_and_zero_shards_take_no_part() {
    let table = table();
    let bytes = table.encode();
    let head = table.head(&bytes);
    assert_eq!(ParityHead::parse(&head.encode()), Ok(head));
    assert_eq!(ParityTable::parse(&head, &bytes), Ok(table.clone()));
    assert_eq!(head.area_len, 3 * 64);
    assert_eq!(head.file_len(), 2 * (96 + bytes.len() as u64) + 192);
    let (file, offset) = table.file(FileKind::MemoryData, 0).unwrap();
    assert_eq!((file.members(), offset), (vec![0, 2, 3], 64));
}

// spec: PAR-01
#[test]
fn every_flipped_bit_of_the_head_and_of_the_table_is_found() {
    let table = table();
    let bytes = table.encode();
    let head = table.head(&bytes);
    for bit in 0..PARITY_HEAD_BYTES * 8 {
        let mut encoded = head.encode();
        encoded[bit / 8] ^= 1 << (bit % 8);
        let error = ParityHead::parse(&encoded).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "bit {bit}: {error}");
    }
    for bit in 0..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let error = ParityTable::parse(&head, &changed).unwrap_err();
        assert!(
            matches!(error, DecodeError::Digest { .. }),
            "bit {bit}: {error}"
        );
    }
}

// spec: PAR-01
#[test]
fn a_later_version_is_too_new() {
    let table = table();
    let mut encoded = table.head(&table.encode()).encode();
    (encoded[8], encoded[10]) = (9, 2);
    let crc = crc32c::crc32c(&encoded[..92]).to_le_bytes();
    encoded[92..].copy_from_slice(&crc);
    let error = ParityHead::parse(&encoded).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooNew);
}

// spec: PAR-02
#[test]
fn a_writer_that_lies_is_refused() {
    let lies: [&dyn Fn(&mut ParityTable); 9] = [
        &|table| table.files[0].shard_bytes = 65,
        &|table| table.files[0].shard_bytes = 0,
        &|table| table.files[0].shard_bytes = 2 << 20,
        &|table| table.files[0].group = 0,
        &|table| table.files[0].recovery_of_group = 129,
        &|table| table.files[0].len_bytes = u64::MAX,
        &|table| table.files[1].recovery.clear(),
        &|table| table.files[1].shards.push(Digest([1; 32])),
        &|table| table.files.swap(0, 1),
    ];
    for (number, lie) in lies.into_iter().enumerate() {
        let mut table = table();
        lie(&mut table);
        let bytes = table.encode();
        let head = table.head(&bytes);
        assert!(ParityTable::parse(&head, &bytes).is_err(), "lie {number}");
    }
}
