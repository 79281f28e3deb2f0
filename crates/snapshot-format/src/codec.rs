//! The only file that names bitcode.
//!
//! Wire types derive [`Encode`] and [`Decode`] from here and live in modules named `v1`, `v2` and
//! so on, frozen once released. They are apart from the types of the API, hold no map, no serde
//! attribute, no recursion, and no `Option` of a large array inside a `Vec`: a hostile payload
//! decodes to at most [`limits::MAX_DECODE_AMPLIFICATION`] times its length, which a test
//! measures.

use std::cell::RefCell;
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

thread_local! {
    /// The columns that bitcode sorts values into. A machine has a payload for each vCPU, written
    /// while it is paused: keeping them from one payload to the next takes a third of the time.
    static COLUMNS: RefCell<bitcode::Buffer> = RefCell::new(bitcode::Buffer::new());
}

/// Columns of payloads beyond this length are not kept.
const KEEP_BYTES: usize = 64 << 10;

/// The bytes of a wire type.
pub(crate) fn encode<T: Encode + ?Sized>(wire: &T) -> Vec<u8> {
    COLUMNS.with_borrow_mut(|columns| {
        let bytes = columns.encode(wire).to_vec();
        if bytes.len() > KEEP_BYTES {
            *columns = bitcode::Buffer::new();
        }
        bytes
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_columns_change_no_byte() {
        let long = KEEP_BYTES as u64 * 4;
        for count in [3, 0, 1, long, 2, 700] {
            let values: Vec<_> = (0..count).map(|n| (n * 0x1357_9bdf, n % 3 == 0)).collect();
            assert_eq!(encode(&values), bitcode::encode(&values), "{count} values");
        }
    }
}
