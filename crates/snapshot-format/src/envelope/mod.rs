//! The frame of every file: a fixed header, sections, and a table of them at the end.

mod builder;
mod feature;
mod file_kind;
mod header;
mod parse;
mod table;

pub use builder::EnvelopeBuilder;
pub use feature::{Features, Operation};
pub use file_kind::{Arch, FileKind};
pub use header::{
    BASE_READER_MINOR, FORMAT, FormatVersion, HEADER_BYTES, Header, MAGIC, WriterName,
};
pub use parse::Envelope;
pub use table::{SECTION_ENTRY_BYTES, SectionEntry, SectionTable, envelope_digest};

pub(crate) use header::RawHeader;
pub(crate) use parse::slice;
