//! Frames of a data file: up to 16 present pages stored as one, compressed where that is shorter.

use serde::Serialize;

use crate::address::PAGE_BYTES;
use crate::bytes::Fields;
use crate::error::{DecodeError, Part};
use crate::page_map::LEAF_PAGES;

/// Present pages in one frame; the last frame of a leaf may have fewer.
pub const FRAME_PAGES: usize = 16;

/// Bytes of a full frame as the guest sees them: 64 KiB.
pub const FRAME_BYTES: usize = FRAME_PAGES * 4096;

/// The length of one entry of a frame table, in bytes.
pub const FRAME_ENTRY_BYTES: usize = 8;

/// Frames in one leaf at most.
pub(crate) const MAX_FRAMES: usize = LEAF_PAGES / FRAME_PAGES;

/// How the bytes of a frame are stored.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FrameCoding {
    /// As the guest sees them.
    Plain,
    /// One block of LZ4.
    Lz4,
    /// One Zstandard frame, without a dictionary.
    Zstd,
}

/// One entry of a frame table: what the data file holds of up to 16 pages.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FrameEntry {
    /// How they are stored.
    pub coding: FrameCoding,
    /// How many bytes they take in the data file.
    pub stored_len: u32,
    /// CRC32C of those bytes, so that damage never reaches a decoder.
    pub checksum: u32,
}

/// A frame and its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame {
    /// What is stored.
    pub entry: FrameEntry,
    /// Where it starts in the data file.
    pub offset: u64,
    /// How many present pages of the leaf come before it.
    pub first_rank: usize,
    /// How many pages it holds: 1 to 16.
    pub pages: usize,
}

/// The frames of one leaf, with the sums of their lengths.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct FrameTable {
    entries: Vec<FrameEntry>,
    /// Where each frame starts, counted from the first: at most 64 MiB.
    starts: Vec<u32>,
    /// Where the last one ends.
    len_bytes: u32,
    /// How many pages they hold; 0 if there is none.
    pages: usize,
}

impl FrameCoding {
    const fn number(self) -> u32 {
        match self {
            Self::Plain => 0,
            Self::Lz4 => 1,
            Self::Zstd => 2,
        }
    }

    const fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Plain),
            1 => Some(Self::Lz4),
            2 => Some(Self::Zstd),
            _ => None,
        }
    }
}

impl FrameEntry {
    /// The entry of a frame that is stored as `bytes`.
    #[must_use]
    pub fn of(coding: FrameCoding, bytes: &[u8]) -> Self {
        Self {
            coding,
            stored_len: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
            checksum: crc32c::crc32c(bytes),
        }
    }

    /// Whether a frame of `pages` pages may be stored in so many bytes: exactly its own length if
    /// it is plain, and less if it is compressed.
    #[must_use]
    pub const fn fits(&self, pages: usize) -> bool {
        let (stored, decoded) = (self.stored_len as u64, pages as u64 * PAGE_BYTES);
        match self.coding {
            FrameCoding::Plain => stored == decoded,
            FrameCoding::Lz4 | FrameCoding::Zstd => stored > 0 && stored < decoded,
        }
    }
}

impl Frame {
    /// Bytes of its pages as the guest sees them: at most [`FRAME_BYTES`].
    #[must_use]
    pub const fn decoded_len(&self) -> usize {
        self.pages * FRAME_BYTES / FRAME_PAGES
    }

    /// One past its last byte in the data file; saturates.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.offset.saturating_add(self.entry.stored_len as u64)
    }
}

impl FrameTable {
    /// The table of the frames of `pages` pages, whose entries [fit](FrameEntry::fits).
    pub(crate) fn new(entries: Vec<FrameEntry>, pages: usize) -> Self {
        let mut starts = Vec::with_capacity(entries.len());
        let mut len_bytes: u32 = 0;
        for entry in &entries {
            starts.push(len_bytes);
            len_bytes = len_bytes.saturating_add(entry.stored_len);
        }
        Self {
            entries,
            starts,
            len_bytes,
            pages,
        }
    }

    pub(crate) fn entries(&self) -> &[FrameEntry] {
        &self.entries
    }

    pub(crate) const fn len_bytes(&self) -> u32 {
        self.len_bytes
    }

    /// Frame `index`, if the first one starts at `data_offset`.
    pub(crate) fn frame(&self, index: usize, data_offset: u64) -> Option<Frame> {
        let (entry, start) = (self.entries.get(index)?, self.starts.get(index)?);
        Some(Frame {
            entry: *entry,
            offset: data_offset.saturating_add((*start).into()),
            first_rank: index * FRAME_PAGES,
            pages: pages_of(index, self.pages),
        })
    }

    pub(crate) fn encode_into(&self, out: &mut Vec<u8>) {
        for entry in &self.entries {
            out.extend((entry.coding.number() << CODING_SHIFT | entry.stored_len).to_le_bytes());
            out.extend(entry.checksum.to_le_bytes());
        }
    }

    /// Checks the next `count` entries, of frames that hold `pages` pages: at most as many as
    /// these take.
    pub(crate) fn decode(
        fields: &mut Fields<'_>,
        part: Part,
        count: usize,
        pages: usize,
    ) -> Result<Self, DecodeError> {
        let mut entries = Vec::with_capacity(count.min(MAX_FRAMES));
        for index in 0..count {
            let at = fields.offset();
            let (word, checksum) = (fields.u32()?, fields.u32()?);
            let coding = FrameCoding::from_number(word >> CODING_SHIFT);
            let coding = coding.ok_or(DecodeError::NotUnderstood {
                part,
                offset: at,
                why: "a frame is stored plain (0), as LZ4 (1) or as Zstandard (2)",
            })?;
            let entry = FrameEntry {
                coding,
                stored_len: word & (u32::MAX >> (u32::BITS - CODING_SHIFT)),
                checksum,
            };
            if !entry.fits(pages_of(index, pages)) {
                return Err(fields.invalid(
                    at,
                    "a plain frame has its own length, a compressed one less",
                    word.into(),
                ));
            }
            entries.push(entry);
        }
        let pages = if entries.is_empty() { 0 } else { pages };
        Ok(Self::new(entries, pages))
    }
}

/// How many frames `pages` present pages take.
pub(crate) const fn frame_count(pages: usize) -> usize {
    pages.div_ceil(FRAME_PAGES)
}

/// How many of `pages` present pages frame `index` holds.
pub(crate) const fn pages_of(index: usize, pages: usize) -> usize {
    let left = pages.saturating_sub(index * FRAME_PAGES);
    if left < FRAME_PAGES {
        left
    } else {
        FRAME_PAGES
    }
}

/// Where the coding starts in the first word of an entry; below it is the stored length.
const CODING_SHIFT: u32 = 28;
