//! The fixed head of a parity file, which stands at its beginning and at its end.

use crate::bytes::Fields;
use crate::envelope::FormatVersion;
use crate::error::{DecodeError, Part};
use crate::id::{Digest, SnapshotId};
use crate::limits::{MAX_PARITY_BYTES, MAX_PARITY_TABLE_BYTES};

/// Bytes of the head.
pub const PARITY_HEAD_BYTES: usize = 96;

/// The version of parity files that this build writes, and the highest that it reads.
pub const PARITY_VERSION: u16 = 1;

const MAGIC: [u8; 8] = *b"\x89VMP\r\n\x1a\n";

/// Bytes that the checksum at the end of the head covers.
const COVERED: usize = PARITY_HEAD_BYTES - 4;

/// The head of a parity file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ParityHead {
    /// Whose files are covered.
    pub id: SnapshotId,
    /// Bytes of the table.
    pub table_len: u64,
    /// Bytes of all recovery shards.
    pub area_len: u64,
    /// The digest of the table.
    pub table: Digest,
}

impl ParityHead {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; PARITY_HEAD_BYTES] {
        let mut bytes = Vec::with_capacity(PARITY_HEAD_BYTES);
        bytes.extend(MAGIC);
        bytes.extend(PARITY_VERSION.to_le_bytes());
        // The lowest version that a reader must know.
        bytes.extend(PARITY_VERSION.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(self.id.0);
        bytes.extend(self.table_len.to_le_bytes());
        bytes.extend(self.area_len.to_le_bytes());
        bytes.extend(self.table.0);
        bytes.resize(COVERED, 0);
        bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
        let mut head = [0; PARITY_HEAD_BYTES];
        head.copy_from_slice(&bytes);
        head
    }

    /// Reads it. The checksum is looked at before the version.
    pub fn parse(bytes: &[u8; PARITY_HEAD_BYTES]) -> Result<Self, DecodeError> {
        let mut fields = Fields::new(bytes, Part::Header);
        let found: [u8; 8] = fields.array()?;
        if found != MAGIC {
            return Err(DecodeError::Magic { found });
        }
        let (covered, stored) = bytes.split_at(COVERED);
        let stored = Fields::new(stored, Part::Header).u32()?;
        let computed = crc32c::crc32c(covered);
        if stored != computed {
            return Err(DecodeError::Checksum {
                part: Part::Header,
                offset: 0,
                stored,
                computed,
            });
        }
        let (version, reader) = (fields.u16()?, fields.u16()?);
        if reader > PARITY_VERSION {
            let of = |minor| FormatVersion { major: 0, minor };
            return Err(DecodeError::TooNew {
                needs: of(reader),
                reads: of(PARITY_VERSION),
            });
        }
        if version < reader || reader == 0 {
            return Err(DecodeError::Invalid {
                part: Part::Header,
                offset: 8,
                rule: "the version is not below that of readers, which begins with 1",
                found: version.into(),
            });
        }
        fields.reserved::<4>()?;
        let id = SnapshotId(fields.array()?);
        let head = Self {
            id,
            table_len: capped(&mut fields, "bytes of the table", MAX_PARITY_TABLE_BYTES)?,
            area_len: capped(&mut fields, "bytes of parity", MAX_PARITY_BYTES)?,
            table: Digest(fields.array()?),
        };
        fields.reserved::<12>()?;
        Ok(head)
    }

    /// Bytes of the whole file.
    #[must_use]
    pub fn file_len(&self) -> u64 {
        // Both lengths are capped.
        2 * (PARITY_HEAD_BYTES as u64 + self.table_len) + self.area_len
    }

    /// Where the recovery shards begin.
    #[must_use]
    pub fn area_offset(&self) -> u64 {
        PARITY_HEAD_BYTES as u64 + self.table_len
    }
}

fn capped(fields: &mut Fields<'_>, what: &'static str, limit: u64) -> Result<u64, DecodeError> {
    let offset = fields.offset();
    let found = fields.u64()?;
    if found > limit {
        return Err(DecodeError::Limit {
            part: Part::Header,
            offset,
            what,
            found,
            limit,
        });
    }
    Ok(found)
}
