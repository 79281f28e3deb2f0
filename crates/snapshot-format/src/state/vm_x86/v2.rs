//! Version 2 of the machine payload: split controllers and interrupt routes. Frozen: a change is
//! version 3.

use super::v1::{ClockV1, IoApicV1, PicV1, PitV1};
use super::{GsiRoute, VmX86};
use crate::state::mirror::wire;

wire! {
    struct GsiRouteV2 for GsiRoute {
        gsi: u32,
        kind: u32,
        flags: u32,
        words: [u32; 8],
    }

    struct VmV2 for VmX86 {
        vcpu_count: u32,
        pit: Option<PitV1>,
        pic_master: Option<PicV1>,
        pic_slave: Option<PicV1>,
        ioapic: Option<IoApicV1>,
        clock: Option<ClockV1>,
        split_lines: Option<u32>,
        routes: Option<Vec<GsiRouteV2>>,
    }
}
