//! How one chunk is stored.

use snapshot_format::FrameCoding;

use crate::error::FormatError;
use crate::fields::Fields;
use crate::frame::check_crc;
use crate::id::ChunkId;
use crate::limits::{CHUNK_BYTES, CHUNK_PAGES, MAX_PAYLOAD_BYTES};

/// Which of the 16 pages of a chunk: bit n is page n.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub(crate) struct PageMask(pub(crate) u16);

/// What a record holds of its chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Representation {
    /// All of it.
    Full,
    /// The pages of the mask; the others are those of the base.
    Delta {
        /// The chunk that the other pages are of.
        base: ChunkId,
        /// Which pages the record holds: at least one.
        mask: PageMask,
    },
}

/// What is known of a record without its payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub(crate) id: ChunkId,
    pub(crate) representation: Representation,
    pub(crate) coding: FrameCoding,
    /// Bytes of the payload as it is stored.
    pub(crate) stored_len: u32,
    /// CRC32C of the payload as it is stored.
    pub(crate) payload_checksum: u32,
    /// Where the record starts in its pack.
    pub(crate) offset: u32,
}

impl PageMask {
    pub(crate) const fn count(self) -> u32 {
        self.0.count_ones()
    }

    pub(crate) const fn contains(self, page: usize) -> bool {
        page < CHUNK_PAGES && (self.0 >> page) & 1 == 1
    }

    pub(crate) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) const fn with(self, page: usize) -> Self {
        Self(self.0 | (1 << (page % CHUNK_PAGES)))
    }

    pub(crate) const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl Representation {
    /// Bytes that the payload decodes to.
    pub(crate) const fn decoded_len(&self) -> usize {
        match self {
            Self::Full => CHUNK_BYTES,
            Self::Delta { mask, .. } => mask.count() as usize * PAGE_BYTES,
        }
    }

    /// The chunk that it needs besides.
    pub(crate) const fn base(&self) -> Option<ChunkId> {
        match self {
            Self::Full => None,
            Self::Delta { base, .. } => Some(*base),
        }
    }

    const fn parts(&self) -> (u8, PageMask, ChunkId) {
        match self {
            Self::Full => (FULL, PageMask(0), ChunkId::NONE),
            Self::Delta { base, mask } => (DELTA, *mask, *base),
        }
    }
}

impl Entry {
    /// Bytes 4 to 7 of the record.
    pub(crate) fn form(&self) -> [u8; 4] {
        let (number, mask, _) = self.representation.parts();
        let [low, high] = mask.0.to_le_bytes();
        [number, codec_of(self.coding), low, high]
    }

    /// The base, or zeros.
    pub(crate) const fn base_or_none(&self) -> ChunkId {
        self.representation.parts().2
    }

    /// Where the payload starts in the pack.
    pub(crate) const fn payload_offset(&self) -> u64 {
        self.offset as u64 + RECORD_BYTES as u64
    }

    /// One past the last byte of the record in the pack.
    pub(crate) const fn end(&self) -> u64 {
        self.payload_offset() + self.stored_len as u64
    }

    /// Appends what record and table entry have in common.
    pub(crate) fn encode_common(&self, out: &mut Vec<u8>) {
        out.extend(self.form());
        out.extend(self.stored_len.to_le_bytes());
        out.extend(self.payload_checksum.to_le_bytes());
        out.extend(self.id.0);
        out.extend(self.base_or_none().0);
    }

    /// Reads what record and table entry have in common. Where the record is, is not in it.
    pub(crate) fn decode_common(fields: &mut Fields<'_>) -> Result<Self, FormatError> {
        let at = fields.offset();
        let (number, codec, mask) = (fields.u8()?, fields.u8()?, PageMask(fields.u16()?));
        let stored_len = fields.u32()?;
        let payload_checksum = fields.u32()?;
        let (id, base) = (ChunkId(fields.array()?), ChunkId(fields.array()?));
        let invalid = |offset, rule, found| Err(FormatError::invalid(offset, rule, found));
        let representation = match number {
            FULL if mask.is_empty() && base == ChunkId::NONE => Representation::Full,
            FULL => {
                return invalid(
                    at,
                    "a full record has neither mask nor base",
                    u64::from(mask.0),
                );
            }
            DELTA if mask.is_empty() => return invalid(at + 2, "a delta has pages", 0),
            DELTA if base == id => return invalid(at, "a delta is not its own base", 0),
            DELTA => Representation::Delta { base, mask },
            _ => return invalid(at, "a record is full or a delta", u64::from(number)),
        };
        let Some(coding) = coding_of(codec) else {
            return invalid(
                at + 1,
                "the codec is raw, LZ4 or Zstandard",
                u64::from(codec),
            );
        };
        if stored_len == 0 || stored_len as usize > MAX_PAYLOAD_BYTES {
            return invalid(
                at + 4,
                "a payload has 1 to 65,552 bytes",
                u64::from(stored_len),
            );
        }
        Ok(Self {
            id,
            representation,
            coding,
            stored_len,
            payload_checksum,
            offset: 0,
        })
    }

    /// The head of the record.
    pub(crate) fn encode_record(&self) -> Vec<u8> {
        let mut head = Vec::with_capacity(RECORD_BYTES);
        head.extend(RECORD_MAGIC);
        self.encode_common(&mut head);
        head.extend([0; 4]);
        head.extend(crc32c::crc32c(&head).to_le_bytes());
        head
    }
}

/// Checks the head of the record at `offset` of its pack; its payload is not looked at.
pub(crate) fn parse_record(bytes: &[u8], offset: u32) -> Result<Entry, FormatError> {
    let start = u64::from(offset);
    let mut fields = Fields::new(bytes, start);
    let covered = fields.clone().take(RECORD_BYTES - 4)?;
    let stored = fields.clone().skip(RECORD_BYTES - 4)?.u32()?;
    if fields.array()? != RECORD_MAGIC {
        return Err(FormatError::Magic {
            offset: start,
            what: "record of a chunk",
        });
    }
    check_crc(start, stored, covered)?;
    let mut entry = Entry::decode_common(&mut fields)?;
    fields.reserved(4)?;
    entry.offset = offset;
    Ok(entry)
}

/// The number of a coding in a record.
pub(crate) const fn codec_of(coding: FrameCoding) -> u8 {
    match coding {
        FrameCoding::Lz4 => 1,
        FrameCoding::Zstd => 2,
        _ => 0,
    }
}

/// The coding of a number; `None` if this build does not know it.
pub(crate) const fn coding_of(codec: u8) -> Option<FrameCoding> {
    match codec {
        0 => Some(FrameCoding::Plain),
        1 => Some(FrameCoding::Lz4),
        2 => Some(FrameCoding::Zstd),
        _ => None,
    }
}

const FULL: u8 = 1;
const DELTA: u8 = 2;
const PAGE_BYTES: usize = 4096;
const RECORD_MAGIC: [u8; 4] = *b"vck1";

/// Bytes of a record before its payload.
pub(crate) const RECORD_BYTES: usize = 88;
