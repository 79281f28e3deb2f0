//! Version 2 of the vCPU payload: the deadline that was armed, and the shadow stack pointer. Frozen:
//! a change is version 3.

use super::VcpuX86;
use super::v1::{
    CpuidEntryV1, DebugRegistersV1, MsrV1, RegistersV1, SpecialRegistersV1, VcpuEventsV1, XcrV1,
};
use crate::state::mirror::wire;

wire! {
    struct VcpuV2 for VcpuX86 {
        id: u32,
        mp_state: u32,
        registers: RegistersV1,
        special: SpecialRegistersV1,
        debug: DebugRegistersV1,
        xcrs: Vec<XcrV1>,
        events: VcpuEventsV1,
        tsc_khz: u32,
        tsc_offset: Option<u64>,
        cpuid: Vec<CpuidEntryV1>,
        msrs: Vec<MsrV1>,
        xsave: Vec<u8>,
        lapic: Vec<u8>,
        nested: Vec<u8>,
        armed_deadline: Option<u64>,
        guest_ssp: Option<u64>,
    }
}
