//! Scalable vector and matrix registers of an aarch64 vCPU.

use serde::Serialize;

use crate::error::DecodeError;
use crate::section::SectionKind;
use crate::state::bytes::{as_hex, as_hex_numbers};

use super::SimdArm64;

/// Vector registers of the scalable vector extension (SVE), in the form that is independent of
/// endianness: byte 0 holds the lowest bits of element 0.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct SveArm64 {
    /// The longest vector that the guest can choose, in bytes: a multiple of 16, at most 256.
    /// Registers have this length, whatever the guest chose.
    pub vector_bytes: u16,
    /// Lengths that the guest can choose: bit n of word w stands for (64 w + n + 1) × 16 bytes.
    #[serde(serialize_with = "as_hex_numbers")]
    pub lengths: [u64; 8],
    /// Z0 to Z31, back to back.
    #[serde(serialize_with = "as_hex")]
    pub z: Vec<u8>,
    /// P0 to P15, back to back; each has an eighth of a vector's bytes.
    #[serde(serialize_with = "as_hex")]
    pub p: Vec<u8>,
    /// The first-fault register, as long as a predicate.
    #[serde(serialize_with = "as_hex")]
    pub ffr: Vec<u8>,
}

/// The scalable matrix extension (SME), with the vectors of its streaming mode.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct SmeArm64 {
    /// Bytes of a streaming vector: a power of two from 16 to 256.
    pub vector_bytes: u16,
    /// `PSTATE.SM`: the vCPU is in streaming mode, where V0 to V31 are the low bits of `z`.
    pub streaming: bool,
    /// `PSTATE.ZA`: the matrix and ZT0 hold something.
    pub za_enabled: bool,
    /// Z0 to Z31 of streaming mode; empty outside it.
    #[serde(serialize_with = "as_hex")]
    pub z: Vec<u8>,
    /// P0 to P15 of streaming mode; empty outside it.
    #[serde(serialize_with = "as_hex")]
    pub p: Vec<u8>,
    /// The matrix, row by row: the square of `vector_bytes`; empty if it is not enabled.
    #[serde(serialize_with = "as_hex")]
    pub za: Vec<u8>,
    /// ZT0 of SME2, 64 bytes; empty without it, or if the matrix is not enabled.
    #[serde(serialize_with = "as_hex")]
    pub zt0: Vec<u8>,
}

impl SveArm64 {
    /// The longest vector in `lengths`, in bytes; 0 if there is none.
    #[must_use]
    pub fn longest(lengths: &[u64; 8]) -> u32 {
        let words = (0_u32..).zip(lengths).filter(|(_, word)| **word != 0);
        words
            .map(|(n, word)| (64 * n + 64 - word.leading_zeros()) * 16)
            .max()
            .unwrap_or(0)
    }

    /// The low 128 bits of every vector: V0 to V31.
    #[must_use]
    pub fn low_halves(&self) -> [u128; 32] {
        low_halves(&self.z, self.vector_bytes)
    }

    pub(super) fn check(&self, simd: &SimdArm64) -> Result<(), DecodeError> {
        let bytes = usize::from(self.vector_bytes);
        let is_length = bytes.is_multiple_of(16) && (16..=256).contains(&bytes);
        rule(is_length, "an SVE vector has 16 to 256 bytes", bytes)?;
        let longest = Self::longest(&self.lengths) as usize;
        let fits = longest == bytes;
        rule(
            fits,
            "registers are as long as the longest SVE vector",
            longest,
        )?;
        lens(&self.z, &self.p, bytes)?;
        let is_ffr = self.ffr.len() == bytes / 8;
        rule(is_ffr, "FFR is as long as a predicate", self.ffr.len())?;
        let agrees = self.low_halves() == simd.v;
        rule(agrees, "V0 to V31 are the low halves of Z0 to Z31", 0)
    }
}

impl SmeArm64 {
    pub(super) fn check(&self, simd: &SimdArm64) -> Result<(), DecodeError> {
        let bytes = usize::from(self.vector_bytes);
        let is_length = bytes.is_power_of_two() && (16..=256).contains(&bytes);
        rule(is_length, "a streaming vector has 16 to 256 bytes", bytes)?;
        if self.streaming {
            lens(&self.z, &self.p, bytes)?;
            let agrees = low_halves(&self.z, self.vector_bytes) == simd.v;
            rule(agrees, "V0 to V31 are the low halves of Z0 to Z31", 0)?;
        } else {
            let len = self.z.len() + self.p.len();
            rule(len == 0, "streaming registers exist in streaming mode", len)?;
        }
        let za = if self.za_enabled { bytes * bytes } else { 0 };
        let is_square = self.za.len() == za;
        rule(is_square, "ZA is a square of vectors", self.za.len())?;
        let is_zt0 = self.zt0.is_empty() || self.za_enabled && self.zt0.len() == 64;
        rule(
            is_zt0,
            "ZT0 has 64 bytes where ZA is enabled",
            self.zt0.len(),
        )
    }
}

fn low_halves(z: &[u8], vector_bytes: u16) -> [u128; 32] {
    let mut low = [0; 32];
    let vectors = z.chunks(usize::from(vector_bytes.max(16)));
    for (low, vector) in low.iter_mut().zip(vectors) {
        *low = vector.first_chunk().map_or(0, |b| u128::from_le_bytes(*b));
    }
    low
}

fn lens(z: &[u8], p: &[u8], vector_bytes: usize) -> Result<(), DecodeError> {
    let what = "there are 32 vectors of the declared length";
    rule(z.len() == 32 * vector_bytes, what, z.len())?;
    let what = "there are 16 predicates of an eighth of a vector";
    rule(p.len() == 2 * vector_bytes, what, p.len())
}

fn rule(holds: bool, rule: &'static str, found: usize) -> Result<(), DecodeError> {
    if holds {
        return Ok(());
    }
    Err(DecodeError::Invalid {
        part: SectionKind::VCPU_AARCH64.part(0),
        offset: 0,
        rule,
        found: found as u64,
    })
}
