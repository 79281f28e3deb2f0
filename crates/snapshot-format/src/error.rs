//! The one error of everything that turns bytes into values.

use std::fmt;

use crate::envelope::{FileKind, FormatVersion, Operation};
use crate::id::Digest;
use crate::layout::LayoutError;
use crate::name::NameError;
use crate::section::SectionKind;

/// Bytes that are no valid file, section or leaf.
///
/// Offsets count bytes from the start of the file where the whole file was given, and from the
/// start of the named part otherwise.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Fewer or more bytes than the part declares.
    #[error("{part} at offset {offset:#x}: {needed} bytes are declared, {found} are there")]
    Length {
        /// Which part.
        part: Part,
        /// Where it starts.
        offset: u64,
        /// How many bytes it declares.
        needed: u64,
        /// How many bytes there are.
        found: u64,
    },
    /// The file does not begin with the magic of this format.
    #[error("header at offset 0x0: no vmsnap file, it begins with {found:02x?}")]
    Magic {
        /// The first eight bytes.
        found: [u8; 8],
    },
    /// A CRC32C that does not match.
    #[error(
        "{part} at offset {offset:#x}: checksum {stored:08x} is stored, {computed:08x} computed"
    )]
    Checksum {
        /// Which part.
        part: Part,
        /// Where it starts.
        offset: u64,
        /// The checksum in the file.
        stored: u32,
        /// The checksum of the bytes.
        computed: u32,
    },
    /// A BLAKE3 digest that does not match.
    #[error("{part} at offset {offset:#x}: digest {stored} is stored, {computed} computed")]
    Digest {
        /// Which part.
        part: Part,
        /// Where it starts.
        offset: u64,
        /// The digest in the file.
        stored: Digest,
        /// The digest of the bytes.
        computed: Digest,
    },
    /// The file needs a newer reader.
    #[error("the file needs a reader of format {needs}, this one reads up to {reads}")]
    TooNew {
        /// The lowest format version that may read the file.
        needs: FormatVersion,
        /// The highest format version that this build reads.
        reads: FormatVersion,
    },
    /// Feature bits that this build does not know, for the operation that was asked for.
    #[error("the file uses features {bits:#x} that this build cannot {operation}")]
    Feature {
        /// What was asked for.
        operation: Operation,
        /// The unknown bits.
        bits: u32,
    },
    /// A file of another kind.
    #[error("a {expected} file is expected, this is a {found} file")]
    FileKind {
        /// What was asked for.
        expected: FileKind,
        /// What the header says.
        found: FileKind,
    },
    /// A field that breaks a rule of the format.
    #[error("{part} at offset {offset:#x}: {rule}, {found:#x} was found")]
    Invalid {
        /// Which part.
        part: Part,
        /// Where the field is.
        offset: u64,
        /// What the field must be.
        rule: &'static str,
        /// What it is.
        found: u64,
    },
    /// More than the format allows.
    #[error("{part} at offset {offset:#x}: {found} {what}, at most {limit} are allowed")]
    Limit {
        /// Which part.
        part: Part,
        /// Where it is.
        offset: u64,
        /// What is counted, with its unit.
        what: &'static str,
        /// How many there are.
        found: u64,
        /// The cap.
        limit: u64,
    },
    /// A payload that its codec cannot decode, though its digest is right.
    #[error("{part} version {version} at offset {offset:#x}: {len} bytes do not decode")]
    Payload {
        /// Which section.
        part: Part,
        /// The version of its payload.
        version: u16,
        /// Where it starts.
        offset: u64,
        /// Its length in bytes.
        len: u64,
    },
    /// A payload of a version that this build does not read.
    #[error("{part} at offset {offset:#x}: version {found}, this build reads up to {reads}")]
    Version {
        /// Which section.
        part: Part,
        /// Where it starts.
        offset: u64,
        /// The version of its payload.
        found: u16,
        /// The highest version that this build reads.
        reads: u16,
    },
    /// A section that must be understood and is not, or whose encoding is unknown.
    #[error("{part} at offset {offset:#x} must be understood, and nothing here does: {why}")]
    NotUnderstood {
        /// Which section.
        part: Part,
        /// Where it starts.
        offset: u64,
        /// What is unknown.
        why: &'static str,
    },
    /// A section that must be there.
    #[error("{part} is missing")]
    Missing {
        /// Which section.
        part: Part,
    },
    /// Two places that must agree, and do not.
    #[error("{part} at offset {offset:#x}: {what} is {found}, {expected} is expected")]
    Mismatch {
        /// Which part.
        part: Part,
        /// Where it is.
        offset: u64,
        /// What is compared.
        what: &'static str,
        /// What the other place says.
        expected: String,
        /// What this place says.
        found: String,
    },
    /// A memory layout that breaks a rule.
    #[error("{part} at offset {offset:#x}: the memory layout is not valid")]
    Layout {
        /// Which part.
        part: Part,
        /// Where it is.
        offset: u64,
        /// Which rule.
        #[source]
        source: LayoutError,
    },
    /// A name that breaks a rule.
    #[error("{part} at offset {offset:#x}: a name is not valid")]
    Name {
        /// Which part.
        part: Part,
        /// Where it is.
        offset: u64,
        /// Which rule.
        #[source]
        source: NameError,
    },
}

/// What a caller branches on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// The bytes are not what was written.
    Corrupt,
    /// The file was written by a newer version, and says that older ones must not read it.
    TooNew,
    /// The file is sound and uses something that this build does not have.
    Unsupported,
    /// The file asks for more than the format allows.
    Limit,
}

/// A part of a file, to say where an error is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Part {
    /// The fixed header.
    Header,
    /// The section table at the end of the file.
    SectionTable,
    /// One section.
    Section {
        /// Its kind.
        kind: SectionKind,
        /// Which of that kind.
        instance: u32,
    },
    /// A table of leaves.
    LeafTable,
    /// What one data file says of one leaf; the number of the leaf.
    IndexLeaf(u32),
    /// The flattened map of one leaf; the number of the leaf.
    OwnerLeaf(u32),
    /// The file as a whole.
    File,
}

impl DecodeError {
    /// The class of the error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::TooNew { .. } => ErrorKind::TooNew,
            Self::Feature { .. } | Self::NotUnderstood { .. } | Self::Version { .. } => {
                ErrorKind::Unsupported
            }
            Self::Limit { .. } => ErrorKind::Limit,
            _ => ErrorKind::Corrupt,
        }
    }

    /// Where the error is, in bytes; `None` where it is in no one place.
    #[must_use]
    pub fn offset(&self) -> Option<u64> {
        match self {
            Self::Length { offset, .. }
            | Self::Checksum { offset, .. }
            | Self::Digest { offset, .. }
            | Self::Invalid { offset, .. }
            | Self::Limit { offset, .. }
            | Self::Payload { offset, .. }
            | Self::Version { offset, .. }
            | Self::NotUnderstood { offset, .. }
            | Self::Mismatch { offset, .. }
            | Self::Layout { offset, .. }
            | Self::Name { offset, .. } => Some(*offset),
            Self::Magic { .. } => Some(0),
            Self::TooNew { .. }
            | Self::Feature { .. }
            | Self::FileKind { .. }
            | Self::Missing { .. } => None,
        }
    }

    /// What to do about it, in one sentence for a person.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self.kind() {
            ErrorKind::Corrupt => "the file is damaged: put back a copy of it, or use a sibling",
            ErrorKind::TooNew => "use the version that wrote the file, or a later one",
            ErrorKind::Unsupported => "use a version that has this feature",
            ErrorKind::Limit => "the file is damaged or hostile: no writer makes one this large",
        }
    }

    /// The same error, with its offset counted from `base` bytes earlier.
    #[must_use]
    pub fn shifted(mut self, base: u64) -> Self {
        match &mut self {
            Self::Length { offset, .. }
            | Self::Checksum { offset, .. }
            | Self::Digest { offset, .. }
            | Self::Invalid { offset, .. }
            | Self::Limit { offset, .. }
            | Self::Payload { offset, .. }
            | Self::Version { offset, .. }
            | Self::NotUnderstood { offset, .. }
            | Self::Mismatch { offset, .. }
            | Self::Layout { offset, .. }
            | Self::Name { offset, .. } => *offset = offset.saturating_add(base),
            Self::Magic { .. }
            | Self::TooNew { .. }
            | Self::Feature { .. }
            | Self::FileKind { .. }
            | Self::Missing { .. } => {}
        }
        self
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => f.write_str("header"),
            Self::SectionTable => f.write_str("section table"),
            Self::Section { kind, instance } => write!(f, "section {kind}/{instance}"),
            Self::LeafTable => f.write_str("leaf table"),
            Self::IndexLeaf(number) => write!(f, "index leaf {number}"),
            Self::OwnerLeaf(number) => write!(f, "owner leaf {number}"),
            Self::File => f.write_str("file"),
        }
    }
}
