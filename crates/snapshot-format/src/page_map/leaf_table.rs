//! Tables of leaves: which leaf lies where, with its digest.

use serde::Serialize;

use crate::bytes::Fields;
use crate::error::{DecodeError, Part};
use crate::id::Digest;
use crate::limits;
use crate::page_map::frame_table::MAX_FRAMES;
use crate::page_map::{IndexLeaf, LEAF_HEADER_BYTES, LEAF_PAGES};

/// The length of one reference to a leaf, in bytes.
pub const LEAF_REF_BYTES: usize = 56;

// A leaf whose pages are all present, each with a digest, in frames.
const _: () = assert!(limits::MAX_LEAF_BYTES == IndexLeaf::encoded_len(LEAF_PAGES, MAX_FRAMES));

/// Where a leaf lies, and what its bytes must hash to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct LeafRef {
    /// Which leaf: guest page number divided by 16384.
    pub number: u32,
    /// Whose `memory.map` holds it: the place of the data file in the list of dependencies,
    /// counted from 1.
    pub file: u16,
    /// Where it starts in that file.
    pub offset: u64,
    /// Its length in bytes.
    pub len: u32,
    /// BLAKE3 of its bytes.
    pub digest: Digest,
}

/// References to leaves, sorted by number, each number once.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(transparent)]
pub struct LeafTable {
    refs: Vec<LeafRef>,
}

impl LeafRef {
    /// Checks bytes that were read from the place that the reference names: length, then digest.
    pub fn verify(&self, bytes: &[u8], part: Part) -> Result<(), DecodeError> {
        if bytes.len() as u64 != u64::from(self.len) {
            return Err(DecodeError::Length {
                part,
                offset: self.offset,
                needed: self.len.into(),
                found: bytes.len() as u64,
            });
        }
        self.digest
            .check(bytes)
            .map_err(|computed| DecodeError::Digest {
                part,
                offset: self.offset,
                stored: self.digest,
                computed,
            })
    }

    /// One past the last byte; saturates.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.len.into())
    }

    fn encode_into(&self, out: &mut Vec<u8>) {
        out.extend(self.number.to_le_bytes());
        out.extend(self.len.to_le_bytes());
        out.extend(self.offset.to_le_bytes());
        out.extend(self.file.to_le_bytes());
        out.extend([0; 6]);
        out.extend(self.digest.0);
    }

    fn decode(fields: &mut Fields<'_>) -> Result<Self, DecodeError> {
        let at = fields.offset();
        let (number, len, offset, file) =
            (fields.u32()?, fields.u32()?, fields.u64()?, fields.u16()?);
        fields.reserved::<6>()?;
        let len_fits = (LEAF_HEADER_BYTES..=limits::MAX_LEAF_BYTES).contains(&(len as usize));
        if !len.is_multiple_of(8) || !len_fits {
            return Err(fields.invalid(at + 4, "a leaf has the length of a leaf", len.into()));
        }
        if !offset.is_multiple_of(8) || offset.checked_add(len.into()).is_none() {
            return Err(fields.invalid(at + 8, "a leaf starts at a multiple of 8", offset));
        }
        if file == 0 || usize::from(file) > limits::MAX_DATA_FILES {
            return Err(fields.invalid(
                at + 16,
                "data files are counted from 1 to 4096",
                file.into(),
            ));
        }
        Ok(Self {
            number,
            file,
            offset,
            len,
            digest: Digest(fields.array()?),
        })
    }
}

impl LeafTable {
    /// A table of references that are sorted by number, each number once; `None` if they are not.
    #[must_use]
    pub fn new(refs: Vec<LeafRef>) -> Option<Self> {
        refs.is_sorted_by(|a, b| a.number < b.number)
            .then_some(Self { refs })
    }

    /// The references by ascending number.
    #[must_use]
    pub fn refs(&self) -> &[LeafRef] {
        &self.refs
    }

    /// How many leaves the table names.
    #[must_use]
    pub fn len(&self) -> usize {
        self.refs.len()
    }

    /// Whether the table names no leaf.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.refs.is_empty()
    }

    /// The reference to a leaf, if the table names it.
    #[must_use]
    pub fn get(&self, number: u32) -> Option<&LeafRef> {
        let found = self.refs.binary_search_by_key(&number, |leaf| leaf.number);
        found.ok().and_then(|index| self.refs.get(index))
    }

    /// This table with the references of `over` in place of its own, where both name a leaf.
    #[must_use]
    pub fn overlaid(&self, over: &Self) -> Self {
        let mut refs = Vec::with_capacity(self.refs.len().max(over.refs.len()));
        let mut base = self.refs.iter().peekable();
        for new in &over.refs {
            while let Some(old) = base.next_if(|old| old.number < new.number) {
                refs.push(*old);
            }
            base.next_if(|old| old.number == new.number);
            refs.push(*new);
        }
        refs.extend(base);
        Self { refs }
    }

    /// This table without the leaves that are not among `numbers`, which ascend.
    #[must_use]
    pub fn among(&self, numbers: &[u32]) -> Self {
        let refs = self.refs.iter().copied();
        let refs = refs.filter(|leaf| numbers.binary_search(&leaf.number).is_ok());
        Self {
            refs: refs.collect(),
        }
    }

    /// The bytes of the table.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.refs.len() * LEAF_REF_BYTES);
        self.encode_into(&mut out);
        out
    }

    /// Appends the bytes of the table.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        for leaf in &self.refs {
            leaf.encode_into(out);
        }
    }

    /// Checks the bytes of a whole table.
    pub fn parse(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut fields = Fields::new(bytes, Part::LeafTable);
        let count = bytes.len() / LEAF_REF_BYTES;
        let table = Self::decode(&mut fields, count)?;
        fields.finish()?;
        Ok(table)
    }

    /// Checks the next `count` references.
    pub(crate) fn decode(fields: &mut Fields<'_>, count: usize) -> Result<Self, DecodeError> {
        if count > limits::MAX_LEAVES {
            return Err(DecodeError::Limit {
                part: Part::LeafTable,
                offset: fields.offset(),
                what: "leaves",
                found: count as u64,
                limit: limits::MAX_LEAVES as u64,
            });
        }
        let mut bytes = Fields::new(fields.take(count * LEAF_REF_BYTES)?, Part::LeafTable);
        let base = fields.offset() - (count * LEAF_REF_BYTES) as u64;
        let mut refs: Vec<LeafRef> = Vec::with_capacity(count);
        for _ in 0..count {
            let at = bytes.offset();
            let leaf = LeafRef::decode(&mut bytes).map_err(|error| error.shifted(base))?;
            if refs
                .last()
                .is_some_and(|before| before.number >= leaf.number)
            {
                return Err(bytes.invalid(
                    base + at,
                    "leaves are sorted by number, each once",
                    leaf.number.into(),
                ));
            }
            refs.push(leaf);
        }
        Ok(Self { refs })
    }
}
