//! Parity files: heads and tables of whoever wrote them.

use snapshot_format::{Digest, PARITY_HEAD_BYTES, ParityHead, ParityTable, SnapshotId};

/// A head and a table read from these bytes, and a table whose digest fits, are refused or are written
/// again as they were; what they say of lengths holds.
///
/// # Panics
///
/// If that does not hold.
pub fn fuzz_parity(bytes: &[u8]) {
    if let Some(head) = bytes.first_chunk::<PARITY_HEAD_BYTES>()
        && let Ok(parsed) = ParityHead::parse(head)
    {
        assert!(parsed.file_len() >= parsed.area_offset());
        let rest = bytes.get(PARITY_HEAD_BYTES..).unwrap_or_default();
        let len = usize::try_from(parsed.table_len).unwrap_or(usize::MAX);
        if let Some(table) = rest.get(..len) {
            check(&parsed, table);
        }
    }
    // The area that would fit is among those that a table may name.
    for area_len in [0, 64, 128, 8192] {
        let head = ParityHead {
            id: SnapshotId([1; 16]),
            table_len: bytes.len() as u64,
            area_len,
            table: Digest::of(bytes),
        };
        check(&head, bytes);
    }
}

fn check(head: &ParityHead, bytes: &[u8]) {
    let Ok(table) = ParityTable::parse(head, bytes) else {
        return;
    };
    let again = table.encode();
    assert!(again == bytes, "a table is written as it was read");
    let made = table.head(&again);
    assert_eq!(
        (made.table_len, made.area_len),
        (head.table_len, head.area_len)
    );
    for file in &table.files {
        let members = file.members();
        let groups = file.groups(members.len());
        assert_eq!(
            file.recovery.len(),
            groups * usize::from(file.recovery_of_group)
        );
        assert!(members.iter().all(|member| *member < file.shards.len()));
    }
}
