//! Version 1 of the aarch64 machine payload. Frozen: a change is version 2.

use super::VmArm64;
use crate::state::mirror::wire;

#[derive(crate::codec::Encode, crate::codec::Decode)]
pub(super) enum GicVersionV1 {
    None,
    V2,
    V3,
}

#[derive(crate::codec::Encode, crate::codec::Decode)]
pub(super) enum CounterOffsetV1 {
    Shared,
    Separate,
}

wire! {
    struct VmArm64V1 for VmArm64 {
        hypervisor: u16,
        vcpu_count: u32,
        address_bits: u8,
        counter_hz: u64,
        counter_offset: CounterOffsetV1,
        wall_clock_ns: u64,
        gic: GicVersionV1,
        el2: bool,
    }
}
