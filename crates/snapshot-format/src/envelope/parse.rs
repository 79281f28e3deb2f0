//! Reading a small file that is wholly in memory.

use crate::bytes::check_zero;
use crate::envelope::{FileKind, Header, Operation, SectionEntry, SectionTable};
use crate::error::{DecodeError, Part};
use crate::id::Digest;
use crate::limits;
use crate::section::{SectionKind, SectionOffers, SectionPayload};

/// A file whose header, section table and padding are right, and whose sections are checked as
/// they are handed out.
#[derive(Clone, Debug)]
pub struct Envelope<'a> {
    bytes: &'a [u8],
    header: Header,
    table: SectionTable,
}

impl<'a> Envelope<'a> {
    /// Checks a whole file of at most [`limits::MAX_ENVELOPE_BYTES`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let file_len = bytes.len() as u64;
        if file_len > limits::MAX_ENVELOPE_BYTES {
            return Err(DecodeError::Limit {
                part: Part::File,
                offset: 0,
                what: "bytes",
                found: file_len,
                limit: limits::MAX_ENVELOPE_BYTES,
            });
        }
        let header = Header::parse(bytes, file_len)?;
        header.allows(Operation::Read)?;
        let table_len = u64::from(header.table_len);
        let table = slice_of(bytes, Part::SectionTable, header.table_offset, table_len)?;
        let table = SectionTable::parse(table, &header)?;
        let envelope = Self {
            bytes,
            header,
            table,
        };
        envelope.check_sections()?;
        Ok(envelope)
    }

    /// [`parse`](Self::parse), for a file that must be of `kind`.
    pub fn parse_kind(bytes: &'a [u8], kind: FileKind) -> Result<Self, DecodeError> {
        let envelope = Self::parse(bytes)?;
        envelope.header.expect_kind(kind)?;
        Ok(envelope)
    }

    /// The header.
    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// The section table.
    #[must_use]
    pub const fn table(&self) -> &SectionTable {
        &self.table
    }

    /// Checks the digest of a section and hands out its bytes.
    pub fn section(&self, kind: SectionKind, instance: u32) -> Result<&'a [u8], DecodeError> {
        let entry = self.table.get(kind, instance)?;
        let bytes = self.bytes_of(entry)?;
        entry.verify(bytes)?;
        Ok(bytes)
    }

    /// Checks every section and offers it.
    ///
    /// Sections that are not critical and whose encoding is unknown are left out.
    pub fn offers(&self) -> Result<SectionOffers, DecodeError> {
        let mut offers = SectionOffers::default();
        for entry in self.table.entries() {
            if let Some(section) = entry.payload(self.bytes_of(entry)?)? {
                offers.push(section, entry.offset);
            }
        }
        Ok(offers)
    }

    /// Checks every section and copies it out, in the order of the file.
    pub fn payloads(&self) -> Result<Vec<SectionPayload>, DecodeError> {
        let mut payloads = Vec::with_capacity(self.table.entries().len());
        for entry in self.table.entries() {
            payloads.extend(entry.payload(self.bytes_of(entry)?)?);
        }
        Ok(payloads)
    }

    /// BLAKE3 of the file.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(self.bytes)
    }

    fn bytes_of(&self, entry: &SectionEntry) -> Result<&'a [u8], DecodeError> {
        slice_of(self.bytes, entry.part(), entry.offset, entry.stored_len)
    }

    fn check_sections(&self) -> Result<(), DecodeError> {
        for entry in self.table.entries() {
            let len = entry.decoded_len.max(entry.stored_len);
            // Leaves and the pages of working sets are read piece by piece wherever they are many.
            let is_read_in_pieces = matches!(
                entry.kind,
                SectionKind::MAP_LEAVES | SectionKind::WORKING_SET_DATA
            );
            if len > limits::MAX_SECTION_BYTES && !is_read_in_pieces {
                return Err(DecodeError::Limit {
                    part: entry.part(),
                    offset: entry.offset,
                    what: "bytes",
                    found: len,
                    limit: limits::MAX_SECTION_BYTES,
                });
            }
            let end = entry.end();
            let padding = end.next_multiple_of(8) - end;
            check_zero(
                slice_of(self.bytes, entry.part(), end, padding)?,
                entry.part(),
                end,
            )?;
        }
        Ok(())
    }
}

/// `len` bytes at `offset`, if they are there.
pub(crate) fn slice(bytes: &[u8], offset: u64, len: u64) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    let end = usize::try_from(offset.checked_add(len)?).ok()?;
    bytes.get(start..end)
}

/// `len` bytes at `offset`, which a part of the file says are there.
fn slice_of(bytes: &[u8], part: Part, offset: u64, len: u64) -> Result<&[u8], DecodeError> {
    slice(bytes, offset, len).ok_or_else(|| DecodeError::Length {
        part,
        offset,
        needed: len,
        found: (bytes.len() as u64).saturating_sub(offset),
    })
}
