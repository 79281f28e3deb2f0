//! Compressing pages, or finding that it does not pay.

use std::io;
use std::ops::RangeInclusive;

use lz4_flex::block::{CompressTable, compress_into_with_table, get_maximum_output_size};
use snapshot_format::page_map::FRAME_BYTES;
use snapshot_format::{FrameCoding, FrameEntry};

/// How to compress frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum FrameCodec {
    /// LZ4: the fastest to read.
    Lz4,
    /// Zstandard: the smallest.
    Zstd {
        /// 1, the fastest, to 22.
        level: i32,
    },
}

/// A codec that cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameCodecError {
    /// A level that Zstandard does not have.
    #[error("zstd level {level}: from {} to {} are possible", range.start(), range.end())]
    Level {
        /// What was asked for.
        level: i32,
        /// What there is.
        range: RangeInclusive<i32>,
    },
    /// Zstandard could not take the memory that it needs.
    #[error("set up a zstd encoder of level {level}")]
    Context {
        /// What was asked for.
        level: i32,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Compresses frames, one after the other, with the same tables.
pub struct FrameEncoder {
    engine: Engine,
    scratch: Box<[u8]>,
}

enum Engine {
    Lz4(Box<CompressTable>),
    Zstd(zstd::bulk::Compressor<'static>),
}

impl FrameCodec {
    /// Zstandard at the level that [`DEFAULT_ZSTD_LEVEL`](Self::DEFAULT_ZSTD_LEVEL) names.
    pub const ZSTD: Self = Self::Zstd {
        level: Self::DEFAULT_ZSTD_LEVEL,
    };

    /// Level 6 saves another sixteenth, and takes more than three times as long: see the figures in
    /// `specs/02-page-map.md`.
    pub const DEFAULT_ZSTD_LEVEL: i32 = 3;

    /// What a frame that it made shorter is stored as.
    #[must_use]
    pub const fn coding(self) -> FrameCoding {
        match self {
            Self::Lz4 => FrameCoding::Lz4,
            Self::Zstd { .. } => FrameCoding::Zstd,
        }
    }
}

impl FrameEncoder {
    /// An encoder with tables of its own.
    pub fn new(codec: FrameCodec) -> Result<Self, FrameCodecError> {
        let engine = match codec {
            FrameCodec::Lz4 => Engine::Lz4(Box::new(CompressTable::large())),
            FrameCodec::Zstd { level } => {
                if !LEVELS.contains(&level) {
                    let range = LEVELS;
                    return Err(FrameCodecError::Level { level, range });
                }
                let compressor = zstd::bulk::Compressor::new(level);
                Engine::Zstd(
                    compressor.map_err(|source| FrameCodecError::Context { level, source })?,
                )
            }
        };
        let scratch = vec![0; get_maximum_output_size(FRAME_BYTES)].into();
        Ok(Self { engine, scratch })
    }

    /// Appends the frame of `pages`, 1 to 16 whole pages, to `out`, and says how it is stored.
    ///
    /// Where it does not shrink by a sixteenth, it is stored as it is, and so is whatever is longer
    /// than a frame, which no leaf takes.
    pub fn append(&mut self, pages: &[u8], out: &mut Vec<u8>) -> FrameEntry {
        if let Some((coding, len)) = self.compress(pages) {
            let bytes = self.scratch.get(..len).unwrap_or_default();
            out.extend_from_slice(bytes);
            return FrameEntry::of(coding, bytes);
        }
        out.extend_from_slice(pages);
        FrameEntry::of(FrameCoding::Plain, pages)
    }

    /// Compresses into the scratch buffer, if that pays; gives the length.
    fn compress(&mut self, pages: &[u8]) -> Option<(FrameCoding, usize)> {
        let longest = pages.len() - pages.len() / LEAST_SHARE;
        let (coding, len) = match &mut self.engine {
            Engine::Lz4(table) => {
                let len = compress_into_with_table(pages, &mut self.scratch, table).ok()?;
                (FrameCoding::Lz4, len)
            }
            Engine::Zstd(compressor) => {
                // It gives up as soon as the bytes do not fit.
                let target = self.scratch.get_mut(..longest)?;
                let len = compressor.compress_to_buffer(pages, target).ok()?;
                (FrameCoding::Zstd, len)
            }
        };
        (len > 0 && len <= longest && len < pages.len()).then_some((coding, len))
    }
}

impl std::fmt::Debug for FrameEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.engine {
            Engine::Lz4(_) => "FrameEncoder(Lz4)",
            Engine::Zstd(_) => "FrameEncoder(Zstd)",
        })
    }
}

/// The levels that Zstandard has, but for the negative ones, which LZ4 beats.
const LEVELS: RangeInclusive<i32> = 1..=22;

/// A frame must shrink by this part of itself, or decoding it costs more than it saves.
const LEAST_SHARE: usize = 16;
