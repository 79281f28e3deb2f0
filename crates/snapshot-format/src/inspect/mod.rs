//! A look at any file of this format: of another version, damaged, or cut off.

mod content;

use std::ops::Range;

pub use content::{Content, MapView, StateView, WorkingSetView};
use serde::Serialize;

use crate::codec::Codec;
use crate::envelope::{
    Arch, Features, FileKind, FormatVersion, Header, RawHeader, SECTION_ENTRY_BYTES, SectionEntry,
    SectionTable, slice,
};
use crate::error::{DecodeError, ErrorKind};
use crate::id::{Digest, SnapshotId};
use crate::limits;

/// Everything that could be read of a file, and the first thing that is wrong with it.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Inspection {
    /// The length of the file in bytes.
    pub file_len: u64,
    /// The header, if the file is long enough for one and begins with the magic.
    pub header: Option<HeaderView>,
    /// The section table, as far as it could be read.
    pub sections: Vec<SectionView>,
    /// What the sections say, if nothing is wrong and all of a file of at most
    /// [`limits::MAX_ENVELOPE_BYTES`] was given.
    pub content: Option<Content>,
    /// The first thing that is wrong.
    pub error: Option<Problem>,
}

/// The header, whether or not this build may read the rest.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct HeaderView {
    /// Whether the checksum is right. If not, no other field can be believed.
    pub sound: bool,
    /// The version of the format that wrote the file.
    pub format: FormatVersion,
    /// The lowest version that may read it.
    pub readable_from: FormatVersion,
    /// What the file holds.
    pub kind: String,
    /// The architecture of the guest.
    pub arch: String,
    /// What a build must know to do something to the file.
    pub features: Features,
    /// The length that the file must have, in bytes.
    pub file_len: u64,
    /// The snapshot, or the store.
    pub id: SnapshotId,
    /// The parent of the snapshot.
    pub parent: Option<SnapshotId>,
    /// Who wrote the file.
    pub writer: String,
}

/// One entry of the section table.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct SectionView {
    /// What it holds, by name if this build knows it.
    pub kind: String,
    /// Which of that kind.
    pub instance: u32,
    /// The version of the payload.
    pub version: u16,
    /// How the payload was made.
    pub codec: String,
    /// The number of the compression; 0 is none.
    pub compression: u8,
    /// Whether a reader that does not understand it must refuse the file.
    pub critical: bool,
    /// Where it starts.
    pub offset: u64,
    /// Its length in the file, in bytes.
    pub stored_len: u64,
    /// Its length when decompressed, in bytes.
    pub decoded_len: u64,
    /// BLAKE3 of its bytes.
    pub digest: Digest,
    /// Whether the bytes have that digest; `None` if they were not given.
    pub sound: Option<bool>,
}

/// Something that is wrong with a file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Problem {
    /// The class.
    pub kind: ErrorKind,
    /// Where it is, in bytes.
    pub offset: Option<u64>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: &'static str,
}

/// Looks at a whole file, or at as much as there is of one of `file_len` bytes.
///
/// What is not in `bytes` counts as missing: of a long file give both ends to [`inspect_ends`].
#[must_use]
pub fn inspect(bytes: &[u8], file_len: u64) -> Inspection {
    let table = table_range(bytes).unwrap_or_default();
    let table_bytes = slice(bytes, table.start, table.end.saturating_sub(table.start));
    let mut inspection = inspect_ends(bytes, table_bytes.unwrap_or_default(), file_len);
    for view in &mut inspection.sections {
        let stored = slice(bytes, view.offset, view.stored_len);
        view.sound = stored.map(|stored| view.digest.check(stored).is_ok());
    }
    let is_whole = bytes.len() as u64 == file_len && file_len <= limits::MAX_ENVELOPE_BYTES;
    if is_whole && inspection.error.is_none() {
        match Content::read(bytes) {
            Ok(content) => inspection.content = Some(content),
            Err(error) => inspection.error = Some(Problem::from(&error)),
        }
    }
    inspection
}

/// Looks at a long file: its first 128 bytes, and the bytes that [`table_range`] names.
#[must_use]
pub fn inspect_ends(head: &[u8], table: &[u8], file_len: u64) -> Inspection {
    let raw = RawHeader::decode(head).and_then(|raw| raw.check_magic().map(|()| raw));
    let header = Header::parse(head, file_len);
    let error = match &header {
        Ok(header) => SectionTable::parse(table, header).err(),
        Err(error) => Some(error.clone()),
    };
    let entries = table.chunks_exact(SECTION_ENTRY_BYTES);
    let entries = entries.take(limits::MAX_SECTIONS);
    Inspection {
        file_len,
        header: raw.ok().map(|raw| HeaderView::from(&raw)),
        sections: entries
            .filter_map(|bytes| SectionEntry::peek(bytes).ok())
            .map(|entry| SectionView::from(&entry))
            .collect(),
        content: None,
        error: error.as_ref().map(Problem::from),
    }
}

/// Where the section table of a file lies, going by its first 128 bytes; `None` if they are no
/// sound header. Holds for files of every version.
#[must_use]
pub fn table_range(head: &[u8]) -> Option<Range<u64>> {
    let raw = RawHeader::decode(head).ok()?;
    raw.check_sound().ok()?;
    let end = raw.table_offset.checked_add(raw.table_len.into())?;
    Some(raw.table_offset..end)
}

impl From<&RawHeader> for HeaderView {
    fn from(raw: &RawHeader) -> Self {
        let unknown = |number: u16| format!("unknown ({number})");
        Self {
            sound: raw.check_sound().is_ok(),
            format: raw.version,
            readable_from: raw.needs(),
            kind: FileKind::from_number(raw.kind)
                .map_or_else(|| unknown(raw.kind), |kind| kind.to_string()),
            arch: Arch::from_number(raw.arch)
                .map_or_else(|| unknown(raw.arch), |arch| arch.to_string()),
            features: raw.features,
            file_len: raw.file_len,
            id: raw.id,
            parent: (!raw.parent.is_nil()).then_some(raw.parent),
            writer: raw.writer.text(),
        }
    }
}

impl From<&SectionEntry> for SectionView {
    fn from(entry: &SectionEntry) -> Self {
        Self {
            kind: entry.kind.to_string(),
            instance: entry.instance,
            version: entry.version,
            codec: match Codec::from_number(entry.codec) {
                Some(codec) => codec.to_string(),
                None => format!("unknown ({})", entry.codec),
            },
            compression: entry.compression,
            critical: entry.critical,
            offset: entry.offset,
            stored_len: entry.stored_len,
            decoded_len: entry.decoded_len,
            digest: entry.digest,
            sound: None,
        }
    }
}

impl From<&DecodeError> for Problem {
    fn from(error: &DecodeError) -> Self {
        let source = std::error::Error::source(error);
        let source = source.map(|source| format!(": {source}"));
        Self {
            kind: error.kind(),
            offset: error.offset(),
            message: format!("{error}{}", source.unwrap_or_default()),
            hint: error.hint(),
        }
    }
}
