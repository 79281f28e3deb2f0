//! The only file that names bitcode.
//!
//! Wire types derive [`Encode`] and [`Decode`] from here and live in modules named `v1`, `v2` and
//! so on, frozen once released. They are apart from the types of the API, hold no map, no serde
//! attribute, no recursion, and no `Option` of a large array inside a `Vec`: a hostile payload
//! decodes to at most [`limits::MAX_DECODE_AMPLIFICATION`] times its length, which a test
//! measures.

use std::fmt;

pub(crate) use bitcode::{Decode, Encode};
use serde::Serialize;

use crate::error::{DecodeError, Part};
use crate::limits;

/// How the bytes of a section were made.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Codec {
    /// Bytes that mean themselves, or a fixed-width layout of this format.
    Raw,
    /// bitcode 0.6, by its derive macros.
    Bitcode,
}

impl Codec {
    /// The number in a section entry.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Raw => 0,
            Self::Bitcode => 1,
        }
    }

    /// The codec of a number; `None` if this build does not know it.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Raw),
            1 => Some(Self::Bitcode),
            _ => None,
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Raw => "raw",
            Self::Bitcode => "bitcode",
        })
    }
}

/// The bytes of a wire type.
pub(crate) fn encode<T: Encode + ?Sized>(wire: &T) -> Vec<u8> {
    bitcode::encode(wire)
}

/// The wire type in `bytes`, which are at most `max_bytes` long.
pub(crate) fn decode<T: bitcode::DecodeOwned>(
    bytes: &[u8],
    max_bytes: usize,
    part: Part,
    version: u16,
) -> Result<T, DecodeError> {
    if bytes.len() > max_bytes.min(limits::MAX_BITCODE_BYTES) {
        return Err(DecodeError::Limit {
            part,
            offset: 0,
            what: "bytes of payload",
            found: bytes.len() as u64,
            limit: max_bytes.min(limits::MAX_BITCODE_BYTES) as u64,
        });
    }
    bitcode::decode(bytes).map_err(|_| DecodeError::Payload {
        part,
        version,
        offset: 0,
        len: bytes.len() as u64,
    })
}
