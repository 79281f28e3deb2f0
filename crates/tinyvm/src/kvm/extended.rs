//! The x87, SSE and AVX registers of a vCPU, in the layout of XSAVE.

use kvm_bindings::{kvm_xcr, kvm_xcrs, kvm_xsave};
use kvm_ioctls::VcpuFd;
use snapshot_format::Digest;

use super::vm::{set_xsave, system};
use crate::error::GuestError;
use crate::program::next;

/// Words of the area: control words and MXCSR, the x87 registers, the SSE registers, the low half
/// of the header's first field, and the upper halves of the AVX registers in the standard format.
const CONTROL: usize = 0;
const MXCSR: usize = 6;
const X87: std::ops::Range<usize> = 8..40;
const SSE: std::ops::Range<usize> = 40..104;
const HEADER: usize = 128;
const AVX: std::ops::Range<usize> = 144..208;

/// Bits of XCR0 and of the header.
const HAS_X87: u64 = 1;
const HAS_SSE: u64 = 2;
const HAS_AVX: u64 = 4;

/// Gives every register a value of its own, and turns AVX on where the host has it.
pub(super) fn fill(vcpu: &VcpuFd, seed: u64) -> Result<(), GuestError> {
    let mut area = vcpu.get_xsave().map_err(system("KVM_GET_XSAVE"))?;
    let mut state = seed;
    let mut number = || {
        state = next(state);
        let [.., a, b, c, d] = state.to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    };
    // All exceptions masked; rounding toward zero, so that it is not what it begins with.
    set(&mut area, CONTROL, 0x0f7f);
    set(&mut area, MXCSR, 0x7f80);
    for register in X87.step_by(4) {
        // Sixteen bytes each, of which ten count: the other six must be zero.
        set(&mut area, register, number());
        set(&mut area, register + 1, number() | 1 << 31);
        set(&mut area, register + 2, 0x3fff);
    }
    for word in SSE.chain(AVX) {
        set(&mut area, word, number());
    }
    let mut features = HAS_X87 | HAS_SSE;
    if enable_avx(vcpu) {
        features |= HAS_AVX;
    } else {
        tracing::warn!("this host has no AVX: the guest goes without");
    }
    set(
        &mut area,
        HEADER,
        u32::try_from(features).unwrap_or_default(),
    );
    set_xsave(vcpu, &area)
}

fn set(area: &mut kvm_xsave, word: usize, value: u32) {
    if let Some(place) = area.region.get_mut(word) {
        *place = value;
    }
}

/// Whether XCR0 takes the bit of AVX.
fn enable_avx(vcpu: &VcpuFd) -> bool {
    let mut xcrs = kvm_xcrs {
        nr_xcrs: 1,
        ..Default::default()
    };
    if let Some(first) = xcrs.xcrs.first_mut() {
        *first = kvm_xcr {
            xcr: 0,
            value: HAS_X87 | HAS_SSE | HAS_AVX,
            ..Default::default()
        };
    }
    vcpu.set_xcrs(&xcrs).is_ok()
}

/// A digest of the registers in a saved area: parts that are in their initial state, which are
/// not written, count as zero.
pub(super) fn digest(xsave: &[u8]) -> Digest {
    let word = |at: usize| {
        let bytes = xsave.get(at * 4..at * 4 + 4).unwrap_or_default();
        bytes.try_into().map_or(0, u32::from_le_bytes)
    };
    let has = |feature: u64| u64::from(word(HEADER)) & feature != 0;
    let words = |range: std::ops::Range<usize>, there: bool| {
        range.map(move |at| if there { word(at) } else { 0 })
    };
    let all = words(CONTROL..CONTROL + 2, has(HAS_X87))
        .chain(words(MXCSR..MXCSR + 1, true))
        .chain(words(X87, has(HAS_X87)))
        .chain(words(SSE, has(HAS_SSE)))
        .chain(words(AVX, has(HAS_AVX)));
    let bytes: Vec<u8> = all.flat_map(u32::to_le_bytes).collect();
    Digest::of(&bytes)
}
