//! A leaf of a recipe: the chunks of 64 MiB of guest memory.

use crate::chunk::{Chunk, zero_chunk};
use crate::error::FormatError;
use crate::fields::Fields;
use crate::id::ChunkId;
use crate::limits::{CHUNK_BYTES, LEAF_CHUNKS};

/// The chunks of a leaf, in the order of their guest pages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct RecipeLeaf {
    /// `None`: all zero. At most [`LEAF_CHUNKS`].
    pub(crate) chunks: Vec<Option<ChunkId>>,
}

impl RecipeLeaf {
    /// The chunk of a leaf: the id of the chunk that is all zero is not in it.
    pub(crate) fn encode(&self) -> Box<Chunk> {
        let mut bytes = Vec::with_capacity(CHUNK_BYTES);
        bytes.extend(MAGIC);
        let count = u32::try_from(self.chunks.len()).unwrap_or(u32::MAX);
        bytes.extend(count.to_le_bytes());
        let mut zeros = [0_u8; BITMAP_BYTES];
        let bits = self.chunks.chunks(8);
        for (byte, chunks) in zeros.iter_mut().zip(bits) {
            let bits = chunks.iter().enumerate();
            *byte = bits.fold(0, |byte, (bit, chunk)| {
                byte | (u8::from(chunk.is_none()) << bit)
            });
        }
        bytes.extend(zeros);
        let ids = self.chunks.iter().flatten();
        bytes.extend(ids.flat_map(|id| id.0));
        let mut chunk = zero_chunk();
        chunk
            .iter_mut()
            .zip(bytes)
            .for_each(|(to, from)| *to = from);
        chunk
    }

    /// Checks a chunk that a recipe names as a leaf. `zero` is the id of the chunk of zeros.
    pub(crate) fn parse(chunk: &Chunk, zero: ChunkId) -> Result<Self, FormatError> {
        let mut fields = Fields::new(chunk, 0);
        if fields.array()? != MAGIC {
            let what = "leaf of a recipe";
            return Err(FormatError::Magic { offset: 0, what });
        }
        let count = fields.count(LEAF_CHUNKS, 0)?;
        if count == 0 {
            return Err(FormatError::invalid(4, "a leaf has chunks", 0));
        }
        let zeros: [u8; BITMAP_BYTES] = fields.array()?;
        let is_zero = |at: usize| {
            zeros
                .get(at / 8)
                .is_some_and(|byte| (byte >> (at % 8)) & 1 == 1)
        };
        if let Some(at) = (count..LEAF_CHUNKS).find(|at| is_zero(*at)) {
            let rule = "no bit is set beyond the last chunk";
            return Err(FormatError::invalid(8, rule, at as u64));
        }
        let mut chunks = Vec::with_capacity(count);
        for at in 0..count {
            let offset = fields.offset();
            let id = if is_zero(at) {
                None
            } else {
                Some(ChunkId(fields.array()?))
            };
            if id == Some(zero) {
                let rule = "the chunk of zeros is told by its bit";
                return Err(FormatError::invalid(offset, rule, at as u64));
            }
            chunks.push(id);
        }
        fields.reserved(fields.left())?;
        Ok(Self { chunks })
    }

    /// Whether every chunk is zero: such a leaf is not written.
    pub(crate) fn is_zero(&self) -> bool {
        self.chunks.iter().all(Option::is_none)
    }
}

const MAGIC: [u8; 4] = *b"vlf1";
const BITMAP_BYTES: usize = LEAF_CHUNKS / 8;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ZERO: ChunkId = ChunkId([9; 32]);

    proptest! {
        #[test]
        fn a_leaf_survives_its_chunk(
            chunks in prop::collection::vec(
                prop::option::of(any::<[u8; 32]>().prop_map(ChunkId)), 1..=LEAF_CHUNKS),
        ) {
            let leaf = RecipeLeaf { chunks };
            let parsed = RecipeLeaf::parse(&leaf.encode(), ZERO);
            prop_assert_eq!(parsed, Ok(leaf));
        }
    }

    // spec: VLT-11
    #[test]
    fn a_leaf_that_says_more_than_it_may_is_refused() {
        let leaf = RecipeLeaf {
            chunks: vec![Some(ChunkId([1; 32])), None, Some(ChunkId([2; 32]))],
        };
        let ids_end = 8 + BITMAP_BYTES + 64;
        let changes: [fn(&mut Chunk); 6] = [
            |chunk| chunk[0] = b'x',
            |chunk| chunk[4] = 0,
            |chunk| chunk[5] = 0x10,
            |chunk| chunk[8] |= 1 << 3,
            |chunk| chunk[8 + BITMAP_BYTES..][..32].fill(9),
            |chunk| chunk[CHUNK_BYTES - 1] = 1,
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let mut chunk = leaf.encode();
            change(&mut chunk);
            assert!(RecipeLeaf::parse(&chunk, ZERO).is_err(), "change {number}");
        }
        let mut chunk = leaf.encode();
        chunk[ids_end] = 1;
        assert!(RecipeLeaf::parse(&chunk, ZERO).is_err());
        assert!(leaf.encode().len() == CHUNK_BYTES);
    }
}
