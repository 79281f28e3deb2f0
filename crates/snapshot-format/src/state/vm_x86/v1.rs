//! Version 1 of the machine payload. Frozen; what did not change is in version 2, too.

use super::{Clock, IoApic, Pic, Pit, PitChannel, VmX86};
use crate::state::mirror::{replaced_wire, wire};

wire! {
    struct PicV1 for Pic {
        last_irr: u8,
        irr: u8,
        imr: u8,
        isr: u8,
        priority_add: u8,
        irq_base: u8,
        read_reg_select: u8,
        poll: u8,
        special_mask: u8,
        init_state: u8,
        auto_eoi: u8,
        rotate_on_auto_eoi: u8,
        special_fully_nested_mode: u8,
        init4: u8,
        elcr: u8,
        elcr_mask: u8,
    }

    struct IoApicV1 for IoApic {
        base_address: u64,
        ioregsel: u32,
        id: u32,
        irr: u32,
        redirection: [u64; 24],
    }

    struct PitChannelV1 for PitChannel {
        count: u32,
        latched_count: u16,
        count_latched: u8,
        status_latched: u8,
        status: u8,
        read_state: u8,
        write_state: u8,
        write_latch: u8,
        rw_mode: u8,
        mode: u8,
        bcd: u8,
        gate: u8,
        count_load_time: i64,
    }

    struct PitV1 for Pit {
        channels: [PitChannelV1; 3],
        flags: u32,
    }

    struct ClockV1 for Clock {
        clock_ns: u64,
        flags: u32,
        realtime_ns: u64,
        host_tsc: u64,
    }
}

replaced_wire! {
    struct VmV1 for VmX86 {
        vcpu_count: u32,
        pit: Option<PitV1>,
        pic_master: Option<PicV1>,
        pic_slave: Option<PicV1>,
        ioapic: Option<IoApicV1>,
        clock: Option<ClockV1>,
    }
}
