//! Floating-point and vector registers: by SVE where the vCPU has it, by V registers elsewhere.

use snapshot_format::state::{SimdArm64, SveArm64};

use super::{abi, registers};
use crate::calls::Calls;
use crate::error::KvmError;

/// Bytes in which the kernel hands over a vector and a predicate, whatever their length.
const SLICE: usize = 256;
const PREDICATE_SLICE: usize = 32;

/// The lengths that the guest can choose, as 512 bits.
pub(super) fn lengths(calls: &mut (dyn Calls + '_), vcpu: usize) -> Result<[u64; 8], KvmError> {
    let mut bytes = [0; 64];
    registers::get_bytes(calls, vcpu, abi::SVE_VLS, &mut bytes)?;
    let (words, _) = bytes.as_chunks::<8>();
    let mut lengths = [0; 8];
    for (length, word) in lengths.iter_mut().zip(words) {
        *length = u64::from_le_bytes(*word);
    }
    Ok(lengths)
}

/// Chooses the lengths; only before they are fixed.
pub(super) fn set_lengths(
    calls: &mut (dyn Calls + '_),
    vcpu: usize,
    lengths: &[u64; 8],
) -> Result<(), KvmError> {
    let bytes: Vec<u8> = lengths.iter().flat_map(|word| word.to_le_bytes()).collect();
    registers::set_bytes(calls, vcpu, abi::SVE_VLS, &bytes)
}

/// Reads all vector registers.
pub(super) fn save_sve(calls: &mut (dyn Calls + '_), vcpu: usize) -> Result<SveArm64, KvmError> {
    let lengths = lengths(calls, vcpu)?;
    let longest = usize::try_from(SveArm64::longest(&lengths)).unwrap_or(usize::MAX);
    if longest > SLICE {
        return Err(KvmError::NotCaptured {
            what: "vectors of more than 256 bytes",
        });
    }
    let mut read = |id, slice, kept: usize| {
        let mut bytes = vec![0; slice];
        registers::get_bytes(calls, vcpu, id, &mut bytes)?;
        bytes.truncate(kept);
        Ok::<_, KvmError>(bytes)
    };
    let mut sve = SveArm64 {
        vector_bytes: u16::try_from(longest).unwrap_or(u16::MAX),
        lengths,
        ..SveArm64::default()
    };
    for n in 0..32 {
        sve.z.extend(read(abi::z(n), SLICE, longest)?);
    }
    for n in 0..16 {
        let bytes = read(abi::p(n), PREDICATE_SLICE, longest / 8)?;
        sve.p.extend(bytes);
    }
    sve.ffr = read(abi::FFR, PREDICATE_SLICE, longest / 8)?;
    Ok(sve)
}

/// Reads V registers, or takes them out of the vectors that they are the low halves of: the kernel
/// refuses them by themselves where a vCPU has SVE.
pub(super) fn save_simd(
    calls: &mut (dyn Calls + '_),
    vcpu: usize,
    sve: Option<&SveArm64>,
) -> Result<SimdArm64, KvmError> {
    let mut simd = SimdArm64 {
        fpcr: registers::get(calls, vcpu, abi::core(abi::CORE_FPCR, abi::SIZE_U32))?,
        fpsr: registers::get(calls, vcpu, abi::core(abi::CORE_FPSR, abi::SIZE_U32))?,
        ..SimdArm64::default()
    };
    if let Some(sve) = sve {
        simd.v = sve.low_halves();
    } else {
        for (n, v) in (0..).zip(&mut simd.v) {
            let mut bytes = [0; 16];
            registers::get_bytes(calls, vcpu, v_register(n), &mut bytes)?;
            *v = u128::from_le_bytes(bytes);
        }
    }
    Ok(simd)
}

/// Writes vectors, or V registers where there are none.
pub(super) fn restore(
    calls: &mut (dyn Calls + '_),
    vcpu: usize,
    simd: &SimdArm64,
    sve: Option<&SveArm64>,
) -> Result<(), KvmError> {
    if let Some(sve) = sve {
        let vector = usize::from(sve.vector_bytes.max(16));
        for (n, z) in (0..32).zip(sve.z.chunks(vector)) {
            registers::set_bytes(calls, vcpu, abi::z(n), &padded(z, SLICE))?;
        }
        for (n, p) in (0..16).zip(sve.p.chunks(vector / 8)) {
            registers::set_bytes(calls, vcpu, abi::p(n), &padded(p, PREDICATE_SLICE))?;
        }
        let ffr = padded(&sve.ffr, PREDICATE_SLICE);
        registers::set_bytes(calls, vcpu, abi::FFR, &ffr)?;
    } else {
        for (n, v) in (0..).zip(&simd.v) {
            registers::set_bytes(calls, vcpu, v_register(n), &v.to_le_bytes())?;
        }
    }
    let (fpsr, fpcr) = (abi::CORE_FPSR, abi::CORE_FPCR);
    registers::set(calls, vcpu, abi::core(fpsr, abi::SIZE_U32), simd.fpsr)?;
    registers::set(calls, vcpu, abi::core(fpcr, abi::SIZE_U32), simd.fpcr)
}

fn v_register(n: u64) -> u64 {
    abi::core(abi::CORE_V0 + 16 * n, abi::SIZE_U128)
}

fn padded(bytes: &[u8], len: usize) -> Vec<u8> {
    let mut padded = bytes.to_vec();
    padded.resize(len, 0);
    padded
}
