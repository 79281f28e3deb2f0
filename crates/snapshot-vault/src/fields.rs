//! A cursor over little-endian bytes that never panics.

use crate::error::FormatError;

/// Reads fixed-width fields one after the other, and knows where it is.
#[derive(Clone, Debug)]
pub(crate) struct Fields<'a> {
    bytes: &'a [u8],
    position: usize,
    /// Where the bytes start in their object.
    start: u64,
}

impl<'a> Fields<'a> {
    /// Fields of bytes that start at offset `start` of their object.
    pub(crate) const fn new(bytes: &'a [u8], start: u64) -> Self {
        Self {
            bytes,
            position: 0,
            start,
        }
    }

    /// Where the next field is, from the start of the object.
    pub(crate) const fn offset(&self) -> u64 {
        self.start + self.position as u64
    }

    /// How many bytes are left.
    pub(crate) const fn left(&self) -> usize {
        self.bytes.len().saturating_sub(self.position)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let rest = self.bytes.get(self.position..).unwrap_or_default();
        match rest.first_chunk::<N>() {
            Some(chunk) => {
                self.position += N;
                Ok(*chunk)
            }
            None => Err(FormatError::Short {
                offset: self.offset(),
                needed: N as u64,
                found: rest.len() as u64,
            }),
        }
    }

    /// The next `len` bytes.
    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], FormatError> {
        let rest = self.bytes.get(self.position..).unwrap_or_default();
        match rest.get(..len) {
            Some(taken) => {
                self.position += len;
                Ok(taken)
            }
            None => Err(FormatError::Short {
                offset: self.offset(),
                needed: len as u64,
                found: rest.len() as u64,
            }),
        }
    }

    /// The same, `len` bytes further on.
    pub(crate) fn skip(mut self, len: usize) -> Result<Self, FormatError> {
        self.take(len)?;
        Ok(self)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, FormatError> {
        self.array().map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, FormatError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, FormatError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, FormatError> {
        self.array().map(u64::from_le_bytes)
    }

    /// A count that is at most `limit`, and for which so many elements of `size` bytes are there.
    pub(crate) fn count(&mut self, limit: usize, size: usize) -> Result<usize, FormatError> {
        let offset = self.offset();
        let found = self.u32()? as usize;
        if found > limit {
            return Err(FormatError::Limit {
                offset,
                found: found as u64,
                limit: limit as u64,
            });
        }
        let needed = found.saturating_mul(size);
        if needed > self.left() {
            return Err(FormatError::Short {
                offset,
                needed: needed as u64,
                found: self.left() as u64,
            });
        }
        Ok(found)
    }

    /// Reserved bytes, which must be zero.
    pub(crate) fn reserved(&mut self, len: usize) -> Result<(), FormatError> {
        let offset = self.offset();
        let bytes = self.take(len)?;
        match (offset..).zip(bytes).find(|(_, byte)| **byte != 0) {
            None => Ok(()),
            Some((offset, &byte)) => Err(FormatError::invalid(
                offset,
                "reserved bytes must be zero",
                u64::from(byte),
            )),
        }
    }

    /// That nothing is left.
    pub(crate) fn finish(&self) -> Result<(), FormatError> {
        if self.left() == 0 {
            return Ok(());
        }
        Err(FormatError::invalid(
            self.offset(),
            "nothing may follow here",
            self.left() as u64,
        ))
    }
}
