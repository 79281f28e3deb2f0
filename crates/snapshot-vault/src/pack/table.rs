//! What a pack holds: its table, or where that is lost, the heads of its records.

use crate::error::FormatError;
use crate::fields::Fields;
use crate::frame::{HEAD_BYTES, ObjectHead, check_crc, check_digest, digest};
use crate::limits::{MAX_PACK_BYTES, MAX_PACK_RECORDS};
use crate::pack::record::{Entry, RECORD_BYTES, parse_record};

/// The records of a pack, in the order of their offsets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PackTable {
    pub(crate) entries: Vec<Entry>,
}

/// Where the table of a pack is, as its tail says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PackTail {
    pub(crate) table_offset: u64,
    pub(crate) entry_count: usize,
    digest: [u8; 32],
}

impl PackTail {
    /// Checks the last [`TAIL_BYTES`] bytes of a pack of `pack_len` bytes.
    pub(crate) fn parse(bytes: &[u8], pack_len: u64) -> Result<Self, FormatError> {
        let start = pack_len.saturating_sub(TAIL_BYTES as u64);
        if pack_len > MAX_PACK_BYTES {
            return Err(FormatError::Limit {
                offset: 0,
                found: pack_len,
                limit: MAX_PACK_BYTES,
            });
        }
        let mut fields = Fields::new(bytes, start);
        let covered = fields.clone().take(TAIL_BYTES - 4)?;
        let stored = fields.clone().skip(TAIL_BYTES - 4)?.u32()?;
        if fields.array()? != TAIL_MAGIC {
            return Err(FormatError::Magic {
                offset: start,
                what: "tail of a pack",
            });
        }
        check_crc(start, stored, covered)?;
        let at = fields.offset();
        let table_offset = fields.u64()?;
        let entry_count = fields.u32()? as usize;
        fields.reserved(8)?;
        let digest = fields.array()?;
        if entry_count == 0 || entry_count > MAX_PACK_RECORDS {
            return Err(FormatError::Limit {
                offset: at + 8,
                found: entry_count as u64,
                limit: MAX_PACK_RECORDS as u64,
            });
        }
        let table_len = (entry_count * ENTRY_BYTES) as u64;
        if table_offset.checked_add(table_len) != Some(start) {
            let rule = "the table ends where the tail starts";
            return Err(FormatError::invalid(at, rule, table_offset));
        }
        Ok(Self {
            table_offset,
            entry_count,
            digest,
        })
    }

    /// Bytes of the table.
    pub(crate) const fn table_len(&self) -> usize {
        self.entry_count * ENTRY_BYTES
    }
}

impl PackTable {
    /// Checks head and table of a pack against its tail.
    pub(crate) fn parse(
        head: &[u8],
        table: &[u8],
        tail: &PackTail,
        object_key: &[u8; 32],
    ) -> Result<Self, FormatError> {
        check_digest(&tail.digest, &[head, table], Some(object_key))?;
        let mut fields = Fields::new(table, tail.table_offset);
        let mut entries = Vec::with_capacity(tail.entry_count);
        let mut free_from = HEAD_BYTES as u64;
        for _ in 0..tail.entry_count {
            let mut entry = Entry::decode_common(&mut fields)?;
            let at = fields.offset();
            entry.offset = fields.u32()?;
            if u64::from(entry.offset) != free_from {
                let rule = "records follow each other without gap";
                return Err(FormatError::invalid(at, rule, u64::from(entry.offset)));
            }
            free_from = entry.end();
            entries.push(entry);
        }
        fields.finish()?;
        if free_from != tail.table_offset {
            let rule = "the table starts where the last record ends";
            return Err(FormatError::invalid(tail.table_offset, rule, free_from));
        }
        Ok(Self { entries })
    }

    /// The bytes of table and tail of a pack that begins with `head`.
    pub(crate) fn encode(&self, head: &[u8], table_offset: u64, object_key: &[u8; 32]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.encoded_len());
        for entry in &self.entries {
            entry.encode_common(&mut bytes);
            bytes.extend(entry.offset.to_le_bytes());
        }
        let digest = digest(&[head, &bytes], Some(object_key));
        let mut tail = Vec::with_capacity(TAIL_BYTES);
        tail.extend(TAIL_MAGIC);
        tail.extend(table_offset.to_le_bytes());
        let count = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
        tail.extend(count.to_le_bytes());
        tail.extend([0; 8]);
        tail.extend(digest);
        tail.extend(crc32c::crc32c(&tail).to_le_bytes());
        bytes.extend(tail);
        bytes
    }

    /// Bytes of table and tail.
    pub(crate) fn encoded_len(&self) -> usize {
        self.entries.len() * ENTRY_BYTES + TAIL_BYTES
    }
}

/// The records of a pack whose table is lost: those from the front whose heads are right. The head
/// of the pack has been checked; no key is needed.
pub(crate) fn scan(pack: &[u8]) -> PackTable {
    let mut entries = Vec::new();
    let mut offset = HEAD_BYTES;
    while entries.len() < MAX_PACK_RECORDS {
        let rest = pack.get(offset..).unwrap_or_default();
        let Some(entry) = u32::try_from(offset)
            .ok()
            .and_then(|offset| parse_record(rest, offset).ok())
        else {
            break;
        };
        let end = offset + RECORD_BYTES + entry.stored_len as usize;
        if end > pack.len() {
            break;
        }
        entries.push(entry);
        offset = end;
    }
    PackTable { entries }
}

/// Bytes of the tail of a pack.
pub(crate) const TAIL_BYTES: usize = 64;

/// Bytes of one entry of the table.
pub(crate) const ENTRY_BYTES: usize = 80;

const TAIL_MAGIC: [u8; 8] = *b"vmv-tail";

/// That the head of a pack says how long the pack is.
pub(crate) fn check_len(head: &ObjectHead, pack_len: u64) -> Result<(), FormatError> {
    if head.object_len() == Some(pack_len) {
        return Ok(());
    }
    Err(FormatError::Short {
        offset: 0,
        needed: head.object_len().unwrap_or(u64::MAX),
        found: pack_len,
    })
}
