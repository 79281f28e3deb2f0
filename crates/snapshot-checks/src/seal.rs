//! Makes the checksums and digests of changed bytes right again, so that what lies behind them is
//! reached. Places are those of `specs/01-envelope.md` and `specs/02-page-map.md`, written down a
//! second time on purpose.

use snapshot_format::envelope::{HEADER_BYTES, MAGIC, SECTION_ENTRY_BYTES};
use snapshot_format::{Digest, SectionKind};

/// Where the header says where the section table starts: u64.
pub const TABLE_OFFSET: usize = 40;
/// Where the header says how long the section table is: u32.
pub const TABLE_LEN: usize = 48;
/// Where the header says how many sections there are: u32.
pub const SECTION_COUNT: usize = 52;
/// Where the header says how long the file is: u64.
pub const FILE_LEN: usize = 56;
/// Where an entry says where its section starts: u64.
pub const ENTRY_OFFSET: usize = 16;
/// Where an entry says how long its section is in the file: u64.
pub const ENTRY_STORED_LEN: usize = 24;
/// Where an entry says how long its section is when decompressed: u64.
pub const ENTRY_DECODED_LEN: usize = 32;

const TABLE_CRC: usize = 120;
const HEADER_CRC: usize = 124;
const ENTRY_DIGEST: usize = 40;
const ROOT_REGION_COUNT: usize = 80;
const ROOT_REGIONS: usize = 96;
const REGION_BYTES: usize = 16;
const LEAF_REF_BYTES: usize = 56;
const LEAF_OFFSET: usize = 8;
const LEAF_LEN: usize = 4;
const LEAF_DIGEST: usize = 24;

/// Makes magic, header checksum and table checksum right.
pub fn seal_checksums(bytes: &mut [u8]) {
    put(bytes, 0, &MAGIC);
    if let Some(table) = table_range(bytes).and_then(|range| bytes.get(range)) {
        let crc = crc32c::crc32c(table);
        put(bytes, TABLE_CRC, &crc.to_le_bytes());
    }
    if let Some(covered) = bytes.get(..HEADER_CRC) {
        let crc = crc32c::crc32c(covered);
        put(bytes, HEADER_CRC, &crc.to_le_bytes());
    }
}

/// Makes the digests of leaves and sections right, then the checksums.
pub fn seal_all(bytes: &mut [u8]) {
    for entry in entries(bytes) {
        if u32_at(bytes, entry) == Some(SectionKind::MAP_ROOT.0) {
            seal_leaves(bytes, entry);
        }
    }
    for entry in entries(bytes) {
        let section = section_range(bytes, entry).and_then(|range| bytes.get(range));
        if let Some(digest) = section.map(Digest::of) {
            put(bytes, entry + ENTRY_DIGEST, &digest.0);
        }
    }
    seal_checksums(bytes);
}

/// Where each entry of the section table starts, as far as the file goes.
#[must_use]
pub fn entries(bytes: &[u8]) -> Vec<usize> {
    let Some(table) = table_range(bytes) else {
        return Vec::new();
    };
    let end = table.end.min(bytes.len());
    let places = (table.start..end).step_by(SECTION_ENTRY_BYTES);
    places
        .filter(|at| at + SECTION_ENTRY_BYTES <= end)
        .collect()
}

/// The bytes of the section whose entry starts at `entry`.
#[must_use]
pub fn section_range(bytes: &[u8], entry: usize) -> Option<std::ops::Range<usize>> {
    let start = usize_at(bytes, entry + ENTRY_OFFSET)?;
    let len = usize_at(bytes, entry + ENTRY_STORED_LEN)?;
    Some(start..start.checked_add(len)?)
}

/// Writes `new` at `at`, if it fits.
pub fn put(bytes: &mut [u8], at: usize, new: &[u8]) {
    let end = at.saturating_add(new.len());
    if let Some(place) = bytes.get_mut(at..end) {
        place.copy_from_slice(new);
    }
}

/// Makes the digests in both tables of a map root right.
fn seal_leaves(bytes: &mut [u8], entry: usize) {
    let Some(root) = section_range(bytes, entry) else {
        return;
    };
    let count = |at: usize| u32_at(bytes, root.start.checked_add(at)?);
    let (Some(regions), Some(index), Some(owners)) = (
        count(ROOT_REGION_COUNT),
        count(ROOT_REGION_COUNT + 4),
        count(ROOT_REGION_COUNT + 8),
    ) else {
        return;
    };
    let mut at = root.start + ROOT_REGIONS + regions as usize * REGION_BYTES;
    for _ in 0..u64::from(index) + u64::from(owners) {
        if at + LEAF_REF_BYTES > root.end.min(bytes.len()) {
            return;
        }
        let start = usize_at(bytes, at + LEAF_OFFSET);
        let len = u32_at(bytes, at + LEAF_LEN);
        let leaf = start
            .zip(len)
            .and_then(|(start, len)| bytes.get(start..start.checked_add(len as usize)?));
        if let Some(digest) = leaf.map(Digest::of) {
            put(bytes, at + LEAF_DIGEST, &digest.0);
        }
        at += LEAF_REF_BYTES;
    }
}

fn table_range(bytes: &[u8]) -> Option<std::ops::Range<usize>> {
    let start = usize_at(bytes, TABLE_OFFSET)?;
    let len = u32_at(bytes, TABLE_LEN)? as usize;
    let is_behind_header = start >= HEADER_BYTES;
    Some(start..start.checked_add(len)?).filter(|_| is_behind_header)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|chunk| u32::from_le_bytes(*chunk))
}

fn usize_at(bytes: &[u8], at: usize) -> Option<usize> {
    let number = bytes
        .get(at..)?
        .first_chunk()
        .map(|chunk| u64::from_le_bytes(*chunk))?;
    usize::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden;

    #[test]
    fn sealing_a_valid_file_changes_nothing() {
        for file in golden::valid().unwrap() {
            let mut bytes = file.bytes.clone();
            seal_all(&mut bytes);
            assert!(bytes == file.bytes, "{}", file.name);
        }
    }

    #[test]
    fn sealing_repairs_what_it_covers() {
        for file in golden::valid().unwrap() {
            let mut bytes = file.bytes.clone();
            put(&mut bytes, TABLE_CRC, &[0; 8]);
            for entry in entries(&file.bytes) {
                put(&mut bytes, entry + ENTRY_DIGEST, &[0; 32]);
            }
            seal_all(&mut bytes);
            assert!(bytes == file.bytes, "{}", file.name);
        }
    }
}
