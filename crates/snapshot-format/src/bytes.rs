//! A cursor over little-endian bytes that never panics.

use crate::error::{DecodeError, Part};

/// Reads fixed-width fields one after the other, and knows where it is.
#[derive(Clone, Debug)]
pub(crate) struct Fields<'a> {
    bytes: &'a [u8],
    position: usize,
    part: Part,
}

impl<'a> Fields<'a> {
    pub(crate) const fn new(bytes: &'a [u8], part: Part) -> Self {
        Self {
            bytes,
            position: 0,
            part,
        }
    }

    /// Where the next field is, from the start of the part.
    pub(crate) const fn offset(&self) -> u64 {
        self.position as u64
    }

    /// Whether nothing is left.
    pub(crate) const fn is_empty(&self) -> bool {
        self.position >= self.bytes.len()
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let rest = self.bytes.get(self.position..).unwrap_or_default();
        match rest.first_chunk::<N>() {
            Some(chunk) => {
                self.position += N;
                Ok(*chunk)
            }
            None => Err(DecodeError::Length {
                part: self.part,
                offset: self.offset(),
                needed: N as u64,
                found: rest.len() as u64,
            }),
        }
    }

    /// The next `len` bytes.
    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let rest = self.bytes.get(self.position..).unwrap_or_default();
        match rest.get(..len) {
            Some(taken) => {
                self.position += len;
                Ok(taken)
            }
            None => Err(DecodeError::Length {
                part: self.part,
                offset: self.offset(),
                needed: len as u64,
                found: rest.len() as u64,
            }),
        }
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_le_bytes)
    }

    /// `N` reserved bytes, which must be zero.
    pub(crate) fn reserved<const N: usize>(&mut self) -> Result<(), DecodeError> {
        let at = self.offset();
        let bytes = self.array::<N>()?;
        check_zero(&bytes, self.part, at)
    }

    /// That nothing is left.
    pub(crate) fn finish(&self) -> Result<(), DecodeError> {
        if self.position == self.bytes.len() {
            Ok(())
        } else {
            Err(DecodeError::Length {
                part: self.part,
                offset: 0,
                needed: self.offset(),
                found: self.bytes.len() as u64,
            })
        }
    }

    /// The error for a field at `offset` that breaks `rule`.
    pub(crate) const fn invalid(&self, offset: u64, rule: &'static str, found: u64) -> DecodeError {
        DecodeError::Invalid {
            part: self.part,
            offset,
            rule,
            found,
        }
    }
}

/// That reserved bytes or padding, which start at `offset`, are zero.
pub(crate) fn check_zero(bytes: &[u8], part: Part, offset: u64) -> Result<(), DecodeError> {
    match (offset..).zip(bytes).find(|(_, byte)| **byte != 0) {
        None => Ok(()),
        Some((offset, &byte)) => Err(DecodeError::Invalid {
            part,
            offset,
            rule: "reserved bytes and padding must be zero",
            found: u64::from(byte),
        }),
    }
}
