//! The section table: where each section lies, and the digest of its bytes.

use std::collections::BTreeSet;

use crate::bytes::Fields;
use crate::codec::Codec;
use crate::envelope::{HEADER_BYTES, Header};
use crate::error::{DecodeError, Part};
use crate::id::Digest;
use crate::section::{SectionKind, SectionPayload};

/// The length of one entry of the section table.
pub const SECTION_ENTRY_BYTES: usize = 72;

/// Flag bit: a reader that does not understand the section must refuse the file.
const CRITICAL: u32 = 1;

/// The compression that means none, the only one of format 0.1.
const NOT_COMPRESSED: u8 = 0;

/// Where fields of an entry start. The table of `specs/01-envelope.md` must agree.
pub(crate) mod at {
    pub(crate) const FLAGS: u64 = 12;
    pub(crate) const OFFSET: u64 = 16;
    pub(crate) const DECODED_LEN: u64 = 32;
}

/// One entry of the section table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SectionEntry {
    /// What the section holds.
    pub kind: SectionKind,
    /// Which of that kind.
    pub instance: u32,
    /// The version of the payload.
    pub version: u16,
    /// The number of the codec; see [`Codec::from_number`].
    pub codec: u8,
    /// The number of the compression: 0 is none, and this build knows no other.
    pub compression: u8,
    /// Whether a reader that does not understand the section must refuse the file.
    pub critical: bool,
    /// Where the section starts in the file.
    pub offset: u64,
    /// Its length in the file, in bytes.
    pub stored_len: u64,
    /// Its length when decompressed, in bytes.
    pub decoded_len: u64,
    /// BLAKE3 of the bytes in the file.
    pub digest: Digest,
}

/// The section table of a file: sections lie back to back in this order, each at the next
/// multiple of 8.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SectionTable {
    entries: Vec<SectionEntry>,
}

impl SectionEntry {
    /// The entry of a section of `stored_len` bytes with this digest, at `offset`.
    #[must_use]
    pub const fn new(kind: SectionKind, instance: u32, version: u16, codec: Codec) -> Self {
        Self {
            kind,
            instance,
            version,
            codec: codec.number(),
            compression: NOT_COMPRESSED,
            critical: true,
            offset: HEADER_BYTES as u64,
            stored_len: 0,
            decoded_len: 0,
            digest: Digest([0; 32]),
        }
    }

    /// The same entry for `stored_len` bytes with this digest, at `offset`.
    #[must_use]
    pub const fn located(mut self, offset: u64, stored_len: u64, digest: Digest) -> Self {
        self.offset = offset;
        self.stored_len = stored_len;
        self.decoded_len = stored_len;
        self.digest = digest;
        self
    }

    /// The name of the section in errors.
    #[must_use]
    pub const fn part(&self) -> Part {
        self.kind.part(self.instance)
    }

    /// One past the last byte; saturates.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.offset.saturating_add(self.stored_len)
    }

    /// Checks `bytes`, which were read from the place that the entry names: length, then digest.
    pub fn verify(&self, bytes: &[u8]) -> Result<(), DecodeError> {
        if bytes.len() as u64 != self.stored_len {
            return Err(DecodeError::Length {
                part: self.part(),
                offset: self.offset,
                needed: self.stored_len,
                found: bytes.len() as u64,
            });
        }
        self.digest
            .check(bytes)
            .map_err(|computed| DecodeError::Digest {
                part: self.part(),
                offset: self.offset,
                stored: self.digest,
                computed,
            })
    }

    /// Checks `bytes` and makes a section of them.
    ///
    /// `None` means a section that is not critical and whose encoding this build does not know.
    pub fn payload(&self, bytes: &[u8]) -> Result<Option<SectionPayload>, DecodeError> {
        self.verify(bytes)?;
        let why = match Codec::from_number(self.codec) {
            _ if self.compression != NOT_COMPRESSED => "its compression is unknown",
            None => "its codec is unknown",
            Some(codec) => {
                return Ok(Some(SectionPayload {
                    kind: self.kind,
                    instance: self.instance,
                    version: self.version,
                    codec,
                    critical: self.critical,
                    bytes: bytes.to_vec(),
                }));
            }
        };
        if self.critical {
            return Err(DecodeError::NotUnderstood {
                part: self.part(),
                offset: self.offset,
                why,
            });
        }
        Ok(None)
    }

    fn encode_into(&self, out: &mut Vec<u8>) {
        let flags = if self.critical { CRITICAL } else { 0 };
        out.extend(self.kind.0.to_le_bytes());
        out.extend(self.instance.to_le_bytes());
        out.extend(self.version.to_le_bytes());
        out.extend([self.codec, self.compression]);
        out.extend(flags.to_le_bytes());
        out.extend(self.offset.to_le_bytes());
        out.extend(self.stored_len.to_le_bytes());
        out.extend(self.decoded_len.to_le_bytes());
        out.extend(self.digest.0);
    }

    /// The fields of an entry, without any rule.
    pub(crate) fn peek(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut fields = Fields::new(bytes, Part::SectionTable);
        Self::read(&mut fields).map(|(entry, _)| entry)
    }

    /// The fields of the next entry and its flags.
    fn read(fields: &mut Fields<'_>) -> Result<(Self, u32), DecodeError> {
        let kind = SectionKind(fields.u32()?);
        let instance = fields.u32()?;
        let version = fields.u16()?;
        let [codec, compression] = fields.array()?;
        let flags = fields.u32()?;
        let entry = Self {
            kind,
            instance,
            version,
            codec,
            compression,
            critical: flags & CRITICAL != 0,
            offset: fields.u64()?,
            stored_len: fields.u64()?,
            decoded_len: fields.u64()?,
            digest: Digest(fields.array()?),
        };
        Ok((entry, flags))
    }

    fn decode(fields: &mut Fields<'_>) -> Result<Self, DecodeError> {
        let base = fields.offset();
        let (entry, flags) = Self::read(fields)?;
        if flags & !CRITICAL != 0 {
            return Err(fields.invalid(
                base + at::FLAGS,
                "unknown flags must be zero",
                flags.into(),
            ));
        }
        if entry.compression == NOT_COMPRESSED && entry.decoded_len != entry.stored_len {
            return Err(fields.invalid(
                base + at::DECODED_LEN,
                "a section that is not compressed has two equal lengths",
                entry.decoded_len,
            ));
        }
        Ok(entry)
    }
}

impl SectionTable {
    /// A table of `entries`, in the order of their places in the file.
    #[must_use]
    pub const fn new(entries: Vec<SectionEntry>) -> Self {
        Self { entries }
    }

    /// The entries in the order of their places in the file.
    #[must_use]
    pub fn entries(&self) -> &[SectionEntry] {
        &self.entries
    }

    /// The entry of a section that must be there.
    pub fn get(&self, kind: SectionKind, instance: u32) -> Result<&SectionEntry, DecodeError> {
        let mut entries = self.entries.iter();
        entries
            .find(|entry| entry.kind == kind && entry.instance == instance)
            .ok_or_else(|| DecodeError::Missing {
                part: kind.part(instance),
            })
    }

    /// Where the table goes: the first multiple of 8 after the last section.
    #[must_use]
    pub fn offset(&self) -> u64 {
        let end = self.entries.last().map(SectionEntry::end);
        end.unwrap_or(HEADER_BYTES as u64).next_multiple_of(8)
    }

    /// The bytes of the table.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.entries.len() * SECTION_ENTRY_BYTES);
        for entry in &self.entries {
            entry.encode_into(&mut bytes);
        }
        bytes
    }

    /// The bytes of the table, and `header` completed with its place, checksum and the length of
    /// the file: what a writer of a streamed file writes last.
    #[must_use]
    pub fn close(&self, mut header: Header) -> (Header, Vec<u8>) {
        let bytes = self.encode();
        header.table_offset = self.offset();
        header.table_len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        header.section_count = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
        header.table_crc = crc32c::crc32c(&bytes);
        header.file_len = header.table_offset + bytes.len() as u64;
        (header, bytes)
    }

    /// Checks the bytes at `header.table_offset`: length, checksum, then every entry.
    pub fn parse(bytes: &[u8], header: &Header) -> Result<Self, DecodeError> {
        let base = header.table_offset;
        Self::parse_at(bytes, header).map_err(|error| error.shifted(base))
    }

    fn parse_at(bytes: &[u8], header: &Header) -> Result<Self, DecodeError> {
        if bytes.len() as u64 != u64::from(header.table_len) {
            return Err(DecodeError::Length {
                part: Part::SectionTable,
                offset: 0,
                needed: header.table_len.into(),
                found: bytes.len() as u64,
            });
        }
        let computed = crc32c::crc32c(bytes);
        if computed != header.table_crc {
            return Err(DecodeError::Checksum {
                part: Part::SectionTable,
                offset: 0,
                stored: header.table_crc,
                computed,
            });
        }
        Self::parse_entries(bytes, header.table_offset)
    }

    /// Checks every entry of a table that starts at `table_offset` of its file.
    pub(crate) fn parse_entries(bytes: &[u8], table_offset: u64) -> Result<Self, DecodeError> {
        let mut fields = Fields::new(bytes, Part::SectionTable);
        let mut entries = Vec::with_capacity(bytes.len() / SECTION_ENTRY_BYTES);
        let mut seen = BTreeSet::new();
        let mut free_from = HEADER_BYTES as u64;
        while !fields.is_empty() {
            let base = fields.offset();
            let entry = SectionEntry::decode(&mut fields)?;
            if !seen.insert((entry.kind, entry.instance)) {
                return Err(fields.invalid(
                    base,
                    "each kind and instance comes once",
                    entry.kind.0.into(),
                ));
            }
            let end = entry.offset.checked_add(entry.stored_len);
            if entry.offset != free_from || end.is_none_or(|end| end > table_offset) {
                return Err(fields.invalid(
                    base + at::OFFSET,
                    "sections lie back to back before the section table",
                    entry.offset,
                ));
            }
            free_from = entry.end().next_multiple_of(8);
            entries.push(entry);
        }
        if free_from != table_offset {
            return Err(fields.invalid(0, "the section table follows the last section", free_from));
        }
        Ok(Self { entries })
    }
}

/// The digest of a whole envelope in constant time: BLAKE3 of its header followed by its section
/// table, which holds the digest of every section.
#[must_use]
pub fn envelope_digest(header: &[u8; HEADER_BYTES], table: &[u8]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(header);
    hasher.update(table);
    Digest(*hasher.finalize().as_bytes())
}
