//! Decoding frames: never more than the pages that they must hold.

use snapshot_format::{FrameCoding, FrameEntry};

/// What is wrong with the bytes of a frame.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameFault {
    /// The bytes are not those that were stored.
    #[error("checksum {stored:08x} is stored, {computed:08x} computed")]
    Checksum {
        /// The CRC32C in the map.
        stored: u32,
        /// The CRC32C of the bytes.
        computed: u32,
    },
    /// The bytes are those that were stored, and no frame of this coding.
    #[error("{coding:?} does not decode: {reason}")]
    Undecodable {
        /// How the frame says it is stored.
        coding: FrameCoding,
        /// What the decoder says.
        reason: String,
    },
    /// A frame that decodes to other than its pages.
    #[error("decodes to {found} bytes where its pages have {expected}")]
    Length {
        /// The bytes of its pages.
        expected: usize,
        /// What the decoder gave.
        found: usize,
    },
}

/// Decodes frames, one after the other, with the same tables.
#[derive(Default)]
pub struct FrameDecoder {
    zstd: Option<zstd::bulk::Decompressor<'static>>,
}

impl FrameDecoder {
    /// Checks the bytes of a frame, then fills `pages`, which is exactly as long as its pages.
    pub fn decode(
        &mut self,
        entry: &FrameEntry,
        bytes: &[u8],
        pages: &mut [u8],
    ) -> Result<(), FrameFault> {
        let coding = entry.coding;
        let computed = FrameEntry::of(coding, bytes).checksum;
        if computed != entry.checksum {
            let stored = entry.checksum;
            return Err(FrameFault::Checksum { stored, computed });
        }
        let undecodable = |reason: String| FrameFault::Undecodable { coding, reason };
        let expected = pages.len();
        let found = match coding {
            FrameCoding::Plain => {
                if let (Some(pages), true) = (pages.get_mut(..bytes.len()), bytes.len() == expected)
                {
                    pages.copy_from_slice(bytes);
                }
                bytes.len()
            }
            FrameCoding::Lz4 => lz4_flex::block::decompress_into(bytes, pages)
                .map_err(|error| undecodable(error.to_string()))?,
            FrameCoding::Zstd => {
                let len = zstd::zstd_safe::find_frame_compressed_size(bytes);
                if len != Ok(bytes.len()) {
                    return Err(undecodable("it is not one whole frame".to_owned()));
                }
                let decoder = self
                    .zstd()
                    .map_err(|error| undecodable(error.to_string()))?;
                decoder
                    .decompress_to_buffer(bytes, pages)
                    .map_err(|error| undecodable(error.to_string()))?
            }
            _ => return Err(undecodable("this build has no decoder for it".to_owned())),
        };
        if found != expected {
            return Err(FrameFault::Length { expected, found });
        }
        Ok(())
    }

    fn zstd(&mut self) -> std::io::Result<&mut zstd::bulk::Decompressor<'static>> {
        if self.zstd.is_none() {
            self.zstd = Some(zstd::bulk::Decompressor::new()?);
        }
        self.zstd
            .as_mut()
            .ok_or_else(|| std::io::ErrorKind::OutOfMemory.into())
    }
}

impl std::fmt::Debug for FrameDecoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FrameDecoder")
    }
}
