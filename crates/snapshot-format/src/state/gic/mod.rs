//! Arm generic interrupt controllers: by register, and as the bytes of one hypervisor.

mod blob;
mod gicv2;
mod gicv3;
mod v1;

use serde::Serialize;

pub use blob::GicBlob;
pub use gicv2::{BankedRegister, GicV2};
pub use gicv3::{GicV3, GicV3Config, Its, MsiFrame, Redistributor, RedistributorRegion};

use crate::error::DecodeError;
use crate::section::SectionKind;
use crate::state::bytes::as_hex_number;

/// A register in the memory of an interrupt controller.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize)]
pub struct GicRegister {
    /// Offset from the start of its frame, in bytes.
    #[serde(serialize_with = "as_hex_number")]
    pub offset: u32,
    /// Its value; the upper half of a register of 32 bits is zero.
    #[serde(serialize_with = "as_hex_number")]
    pub value: u64,
}

/// That a list is sorted by `key`, each once.
fn check_sorted<T, K: PartialOrd>(
    kind: SectionKind,
    registers: &[T],
    key: impl Fn(&T) -> K,
) -> Result<(), DecodeError> {
    if registers.is_sorted_by(|a, b| key(a) < key(b)) {
        return Ok(());
    }
    Err(DecodeError::Invalid {
        part: kind.part(0),
        offset: 0,
        rule: "registers are sorted by offset, and each is there once",
        found: registers.len() as u64,
    })
}
