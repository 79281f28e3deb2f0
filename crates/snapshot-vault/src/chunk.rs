//! Chunks to payloads and back.

use snapshot_format::{FrameCoding, FrameEntry};
use snapshot_memory::{FrameCodec, FrameDecoder, FrameEncoder};

use crate::error::{FormatError, VaultError};
use crate::frame::check_crc;
use crate::id::{ChunkId, DomainId, ObjectId};
use crate::limits::{CHUNK_BYTES, CHUNK_PAGES};
use crate::pack::{Entry, Representation};
use crate::secrets::{Binding, Secrets};

/// The bytes of one chunk.
pub(crate) type Chunk = [u8; CHUNK_BYTES];

/// A chunk of zeros, on the heap.
pub(crate) fn zero_chunk() -> Box<Chunk> {
    let zeros: Box<[u8]> = vec![0; CHUNK_BYTES].into_boxed_slice();
    // The lengths are equal, so the other arm is never taken.
    zeros.try_into().unwrap_or_else(|_| Box::new(ZEROS))
}

/// The chunk of zeros.
pub(crate) static ZEROS: Chunk = [0; CHUNK_BYTES];

/// Makes payloads, one after the other, with the same tables.
#[derive(Debug)]
pub(crate) struct ChunkEncoder {
    encoder: FrameEncoder,
    pages: Vec<u8>,
}

/// A payload that is not sealed yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Encoded {
    pub(crate) id: ChunkId,
    pub(crate) representation: Representation,
    pub(crate) coding: FrameCoding,
    pub(crate) bytes: Vec<u8>,
}

/// Makes chunks of payloads.
#[derive(Debug, Default)]
pub(crate) struct ChunkDecoder {
    decoder: FrameDecoder,
    pages: Vec<u8>,
}

/// Where a stored payload was found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found<'a> {
    pub(crate) domain: DomainId,
    pub(crate) pack: ObjectId,
    pub(crate) entry: &'a Entry,
    /// The payload as it is stored.
    pub(crate) stored: &'a [u8],
}

impl ChunkEncoder {
    pub(crate) fn new(codec: FrameCodec) -> Result<Self, VaultError> {
        Ok(Self {
            encoder: FrameEncoder::new(codec)?,
            pages: Vec::new(),
        })
    }

    /// The payload of a chunk in the representation that is asked for.
    pub(crate) fn encode(
        &mut self,
        id: ChunkId,
        chunk: &Chunk,
        representation: Representation,
    ) -> Encoded {
        let mut bytes = Vec::new();
        let entry = match representation {
            Representation::Full => self.encoder.append(chunk, &mut bytes),
            Representation::Delta { mask, .. } => {
                self.pages.clear();
                let (pages, _) = chunk.as_chunks::<PAGE_BYTES>();
                let wanted = pages.iter().enumerate();
                for (_, page) in wanted.filter(|(number, _)| mask.contains(*number)) {
                    self.pages.extend_from_slice(page);
                }
                self.encoder.append(&self.pages, &mut bytes)
            }
        };
        Encoded {
            id,
            representation,
            coding: entry.coding,
            bytes,
        }
    }
}

impl ChunkDecoder {
    /// Puts what a record holds into `chunk`: all of it, or the pages of its mask; the others stay.
    ///
    /// Nothing may be used before the chunk's id was found right.
    pub(crate) fn decode(
        &mut self,
        found: Found<'_>,
        secrets: &Secrets,
        chunk: &mut Chunk,
    ) -> Result<(), FormatError> {
        let (entry, at) = (found.entry, u64::from(found.entry.offset));
        check_crc(at, entry.payload_checksum, found.stored)?;
        let opened = secrets.open(&Binding {
            domain: found.domain,
            pack: found.pack,
            offset: at,
            form: entry.form(),
            id: entry.id,
            base: entry.base_or_none(),
            bytes: found.stored,
        });
        let opened = opened.transpose().map_err(|_| FormatError::Payload {
            offset: at,
            what: "open: it was sealed under another key or for another place",
        })?;
        let payload = opened.as_deref().unwrap_or(found.stored);
        let frame = FrameEntry::of(entry.coding, payload);
        let undecodable = |_| FormatError::Payload {
            offset: at,
            what: "decode to the pages that it must hold",
        };
        let Representation::Delta { mask, .. } = entry.representation else {
            let decoded = self.decoder.decode(&frame, payload, chunk);
            return decoded.map_err(undecodable);
        };
        self.pages.resize(entry.representation.decoded_len(), 0);
        let decoded = self.decoder.decode(&frame, payload, &mut self.pages);
        decoded.map_err(undecodable)?;
        let (targets, _) = chunk.as_chunks_mut::<PAGE_BYTES>();
        let targets = targets.iter_mut().enumerate();
        let targets = targets.filter(|(number, _)| mask.contains(*number));
        let (pages, _) = self.pages.as_chunks::<PAGE_BYTES>();
        for ((_, target), page) in targets.zip(pages) {
            *target = *page;
        }
        Ok(())
    }
}

const PAGE_BYTES: usize = CHUNK_BYTES / CHUNK_PAGES;

#[cfg(test)]
mod tests;
