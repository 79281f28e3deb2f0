//! The fixed header: 128 plain bytes that any version of this format can read.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::bytes::{Fields, check_zero};
use crate::envelope::{Arch, Features, FileKind, Operation};
use crate::error::{DecodeError, Part};
use crate::id::SnapshotId;
use crate::limits;
use crate::sabotage::Sabotage;

/// The first bytes of every file: a byte above 0x7f, the letters, and the line ends and the
/// end-of-text byte that a transfer as text would change.
pub const MAGIC: [u8; 8] = *b"\x89VMS\r\n\x1a\n";

/// The length of the header in every version of the format.
pub const HEADER_BYTES: usize = 128;

/// The version of the format that this build writes.
pub const FORMAT: FormatVersion = FormatVersion { major: 0, minor: 5 };

/// The lowest minor version that reads a file which uses nothing newer.
pub const BASE_READER_MINOR: u16 = 1;

/// Where each field of the header starts. The table of `specs/01-envelope.md` must agree.
pub(crate) mod at {
    pub(crate) const HEADER_LEN: u64 = 8;
    pub(crate) const KIND: u64 = 16;
    pub(crate) const ARCH: u64 = 18;
    pub(crate) const TABLE_OFFSET: u64 = 40;
    pub(crate) const TABLE_LEN: u64 = 48;
    pub(crate) const SECTION_COUNT: u64 = 52;
    pub(crate) const FILE_LEN: u64 = 56;
    pub(crate) const ID: u64 = 64;
    pub(crate) const WRITER: u64 = 96;
    pub(crate) const RESERVED: u64 = 112;
    pub(crate) const HEADER_CRC: usize = 124;
}

/// A version of the format. Until the first release the major number is 0 and every change takes
/// a new minor number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FormatVersion {
    /// Changes when no older reader may read the file.
    pub major: u16,
    /// Changes with every change.
    pub minor: u16,
}

/// Who wrote a file: up to 16 printable ASCII bytes, filled up with zeros.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct WriterName(pub [u8; 16]);

/// A header that passed every check that needs no other part of the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// The version of the format that wrote the file.
    pub version: FormatVersion,
    /// The lowest minor version that may read the file.
    pub reader_minor: u16,
    /// What the file holds.
    pub kind: FileKind,
    /// The architecture of the guest.
    pub arch: Arch,
    /// What a build must know to do something to the file.
    pub features: Features,
    /// Where the section table starts.
    pub table_offset: u64,
    /// The length of the section table in bytes.
    pub table_len: u32,
    /// How many sections there are.
    pub section_count: u32,
    /// The length of the file in bytes.
    pub file_len: u64,
    /// The snapshot that the file belongs to; of a store file, the store.
    pub id: SnapshotId,
    /// The parent of the snapshot.
    pub parent: Option<SnapshotId>,
    /// Who wrote the file.
    pub writer: WriterName,
    /// CRC32C of the section table.
    pub table_crc: u32,
}

/// The fields as they are in the bytes, of whatever version, without any check.
#[derive(Clone, Debug)]
pub(crate) struct RawHeader {
    pub(crate) magic: [u8; 8],
    pub(crate) header_len: u16,
    pub(crate) version: FormatVersion,
    pub(crate) reader_minor: u16,
    pub(crate) kind: u16,
    pub(crate) arch: u16,
    pub(crate) features: Features,
    pub(crate) table_offset: u64,
    pub(crate) table_len: u32,
    pub(crate) section_count: u32,
    pub(crate) file_len: u64,
    pub(crate) id: SnapshotId,
    pub(crate) parent: SnapshotId,
    pub(crate) writer: WriterName,
    pub(crate) reserved: [u8; 8],
    pub(crate) table_crc: u32,
    pub(crate) header_crc: u32,
    pub(crate) computed_crc: u32,
}

impl Header {
    /// A header for a new file that has no section yet, and that every version can read.
    #[must_use]
    pub fn new(kind: FileKind, arch: Arch, id: SnapshotId, parent: Option<SnapshotId>) -> Self {
        Self {
            version: FORMAT,
            reader_minor: BASE_READER_MINOR,
            kind,
            arch,
            features: Features::default(),
            table_offset: HEADER_BYTES as u64,
            table_len: 0,
            section_count: 0,
            file_len: HEADER_BYTES as u64,
            id,
            parent,
            writer: WriterName::THIS,
            table_crc: 0,
        }
    }

    /// Checks the first [`HEADER_BYTES`] bytes of a file of `file_len` bytes.
    ///
    /// The checksum is looked at before the version, so that a flipped bit is never taken for a
    /// file from the future.
    pub fn parse(bytes: &[u8], file_len: u64) -> Result<Self, DecodeError> {
        let raw = RawHeader::decode(bytes)?;
        raw.check_sound()?;
        raw.check_version()?;
        let header = raw.check_fields()?;
        if header.file_len != file_len && !Sabotage::TrustedLength.is_on() {
            return Err(DecodeError::Length {
                part: Part::File,
                offset: at::FILE_LEN,
                needed: header.file_len,
                found: file_len,
            });
        }
        Ok(header)
    }

    /// The 128 bytes, with the checksum.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend(MAGIC);
        bytes.extend(128u16.to_le_bytes());
        bytes.extend(self.version.major.to_le_bytes());
        bytes.extend(self.version.minor.to_le_bytes());
        bytes.extend(self.reader_minor.to_le_bytes());
        bytes.extend(self.kind.number().to_le_bytes());
        bytes.extend(self.arch.number().to_le_bytes());
        for operation in Operation::ALL {
            bytes.extend(self.features.of(operation).to_le_bytes());
        }
        bytes.extend(self.table_offset.to_le_bytes());
        bytes.extend(self.table_len.to_le_bytes());
        bytes.extend(self.section_count.to_le_bytes());
        bytes.extend(self.file_len.to_le_bytes());
        bytes.extend(self.id.0);
        bytes.extend(self.parent.map_or([0; 16], |id| id.0));
        bytes.extend(self.writer.0);
        bytes.extend([0; 8]);
        bytes.extend(self.table_crc.to_le_bytes());
        let crc = crc32c::crc32c(&bytes);
        bytes.extend(crc.to_le_bytes());
        let mut header = [0; HEADER_BYTES];
        header.copy_from_slice(&bytes);
        header
    }

    /// That this build knows every feature that `operation` on the file needs.
    pub const fn allows(&self, operation: Operation) -> Result<(), DecodeError> {
        self.features.allow(operation)
    }

    /// That a part of this file, or of another of the same snapshot, repeats id and parent.
    pub fn check_lineage(
        &self,
        part: Part,
        id: SnapshotId,
        parent: Option<SnapshotId>,
    ) -> Result<(), DecodeError> {
        if (self.id, self.parent) == (id, parent) {
            return Ok(());
        }
        let text = |id: SnapshotId, parent: Option<SnapshotId>| match parent {
            Some(parent) => format!("{id} with parent {parent}"),
            None => format!("{id} without a parent"),
        };
        Err(DecodeError::Mismatch {
            part,
            offset: 0,
            what: "the snapshot",
            expected: text(self.id, self.parent),
            found: text(id, parent),
        })
    }

    /// That the file is of the kind that is wanted.
    pub fn expect_kind(&self, expected: FileKind) -> Result<(), DecodeError> {
        if self.kind == expected {
            Ok(())
        } else {
            Err(DecodeError::FileKind {
                expected,
                found: self.kind,
            })
        }
    }
}

impl RawHeader {
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(DecodeError::Length {
                part: Part::Header,
                offset: 0,
                needed: HEADER_BYTES as u64,
                found: bytes.len() as u64,
            });
        };
        let mut fields = Fields::new(header, Part::Header);
        Ok(Self {
            magic: fields.array()?,
            header_len: fields.u16()?,
            version: FormatVersion {
                major: fields.u16()?,
                minor: fields.u16()?,
            },
            reader_minor: fields.u16()?,
            kind: fields.u16()?,
            arch: fields.u16()?,
            features: Features {
                read: fields.u32()?,
                restore: fields.u32()?,
                extend: fields.u32()?,
                rewrite: fields.u32()?,
                gc: fields.u32()?,
            },
            table_offset: fields.u64()?,
            table_len: fields.u32()?,
            section_count: fields.u32()?,
            file_len: fields.u64()?,
            id: SnapshotId(fields.array()?),
            parent: SnapshotId(fields.array()?),
            writer: WriterName(fields.array()?),
            reserved: fields.array()?,
            table_crc: fields.u32()?,
            header_crc: fields.u32()?,
            computed_crc: crc32c::crc32c(&header[..at::HEADER_CRC]),
        })
    }

    pub(crate) fn check_magic(&self) -> Result<(), DecodeError> {
        if self.magic == MAGIC {
            Ok(())
        } else {
            Err(DecodeError::Magic { found: self.magic })
        }
    }

    /// Magic, checksum and length of the header: what holds in every version.
    pub(crate) fn check_sound(&self) -> Result<(), DecodeError> {
        self.check_magic()?;
        if self.header_crc != self.computed_crc {
            return Err(DecodeError::Checksum {
                part: Part::Header,
                offset: 0,
                stored: self.header_crc,
                computed: self.computed_crc,
            });
        }
        if usize::from(self.header_len) != HEADER_BYTES {
            return Err(invalid(
                at::HEADER_LEN,
                "the header has 128 bytes",
                u64::from(self.header_len),
            ));
        }
        Ok(())
    }

    pub(crate) const fn check_version(&self) -> Result<(), DecodeError> {
        if self.version.major == FORMAT.major && self.reader_minor <= FORMAT.minor {
            return Ok(());
        }
        Err(DecodeError::TooNew {
            needs: self.needs(),
            reads: FORMAT,
        })
    }

    /// The lowest version that may read the file.
    pub(crate) const fn needs(&self) -> FormatVersion {
        FormatVersion {
            major: self.version.major,
            minor: self.reader_minor,
        }
    }

    fn check_fields(&self) -> Result<Header, DecodeError> {
        let kind = FileKind::from_number(self.kind).filter(|kind| kind.has_envelope());
        let kind = kind.ok_or_else(|| {
            invalid(
                at::KIND,
                "a known kind of file is expected",
                self.kind.into(),
            )
        })?;
        let arch = Arch::from_number(self.arch).ok_or_else(|| {
            invalid(
                at::ARCH,
                "a known architecture is expected",
                self.arch.into(),
            )
        })?;
        if self.id.is_nil() {
            return Err(invalid(at::ID, "the id must not be zero", 0));
        }
        self.writer.check()?;
        check_zero(&self.reserved, Part::Header, at::RESERVED)?;
        self.check_table()?;
        Ok(Header {
            version: self.version,
            reader_minor: self.reader_minor,
            kind,
            arch,
            features: self.features,
            table_offset: self.table_offset,
            table_len: self.table_len,
            section_count: self.section_count,
            file_len: self.file_len,
            id: self.id,
            parent: (!self.parent.is_nil()).then_some(self.parent),
            writer: self.writer,
            table_crc: self.table_crc,
        })
    }

    fn check_table(&self) -> Result<(), DecodeError> {
        let count = u64::from(self.section_count);
        if count > limits::MAX_SECTIONS as u64 {
            return Err(DecodeError::Limit {
                part: Part::Header,
                offset: at::SECTION_COUNT,
                what: "sections",
                found: count,
                limit: limits::MAX_SECTIONS as u64,
            });
        }
        if u64::from(self.table_len) != count * super::SECTION_ENTRY_BYTES as u64 {
            return Err(invalid(
                at::TABLE_LEN,
                "the section table has 72 bytes a section",
                self.table_len.into(),
            ));
        }
        let end = self.table_offset.checked_add(self.table_len.into());
        let starts_after_header = self.table_offset >= HEADER_BYTES as u64;
        if !self.table_offset.is_multiple_of(8)
            || !starts_after_header
            || end != Some(self.file_len)
        {
            return Err(invalid(
                at::TABLE_OFFSET,
                "the section table starts at a multiple of 8 and ends the file",
                self.table_offset,
            ));
        }
        Ok(())
    }
}

impl WriterName {
    /// This build.
    pub const THIS: Self = Self::padded(concat!("vmsnap ", env!("CARGO_PKG_VERSION")));

    /// The text without the zeros that fill it up; bytes that are not printable are shown as `?`.
    #[must_use]
    pub fn text(&self) -> String {
        let bytes = self.0.iter().copied().take_while(|byte| *byte != 0);
        bytes
            .map(|byte| {
                if is_printable(byte) {
                    char::from(byte)
                } else {
                    '?'
                }
            })
            .collect()
    }

    const fn padded(text: &str) -> Self {
        let (from, mut to, mut i) = (text.as_bytes(), [0; 16], 0);
        while i < from.len() {
            to[i] = from[i];
            i += 1;
        }
        Self(to)
    }

    fn check(&self) -> Result<(), DecodeError> {
        let text_len = self
            .0
            .iter()
            .take_while(|byte| is_printable(**byte))
            .count();
        match (0u64..)
            .zip(self.0)
            .skip(text_len)
            .find(|(_, byte)| *byte != 0)
        {
            None => Ok(()),
            Some((index, byte)) => Err(DecodeError::Invalid {
                part: Part::Header,
                offset: at::WRITER + index,
                rule: "the writer is printable ASCII, filled up with zeros",
                found: byte.into(),
            }),
        }
    }
}

const fn invalid(offset: u64, rule: &'static str, found: u64) -> DecodeError {
    DecodeError::Invalid {
        part: Part::Header,
        offset,
        rule,
        found,
    }
}

const fn is_printable(byte: u8) -> bool {
    byte.is_ascii_graphic() || byte == b' '
}

impl fmt::Display for FormatVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl Serialize for FormatVersion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Debug for WriterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WriterName({:?})", self.text())
    }
}
