//! The interrupt controllers and the timer of an x86-64 machine, as the kernel models them.

use serde::Serialize;

use crate::state::bytes::{as_hex_number, as_hex_numbers};

/// One i8259 interrupt controller (`struct kvm_pic_state`).
#[expect(missing_docs, reason = "the names are those of the chip and of KVM")]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Pic {
    pub last_irr: u8,
    pub irr: u8,
    pub imr: u8,
    pub isr: u8,
    pub priority_add: u8,
    pub irq_base: u8,
    pub read_reg_select: u8,
    pub poll: u8,
    pub special_mask: u8,
    pub init_state: u8,
    pub auto_eoi: u8,
    pub rotate_on_auto_eoi: u8,
    pub special_fully_nested_mode: u8,
    pub init4: u8,
    pub elcr: u8,
    pub elcr_mask: u8,
}

/// The I/O APIC (`struct kvm_ioapic_state`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct IoApic {
    /// Where its registers are.
    #[serde(serialize_with = "as_hex_number")]
    pub base_address: u64,
    /// The register that is selected.
    pub ioregsel: u32,
    /// Its id.
    pub id: u32,
    /// Interrupt lines that are asserted.
    #[serde(serialize_with = "as_hex_number")]
    pub irr: u32,
    /// The redirection table.
    #[serde(serialize_with = "as_hex_numbers")]
    pub redirection: [u64; 24],
}

/// One channel of the i8254 timer (`struct kvm_pit_channel_state`).
#[expect(missing_docs, reason = "the names are those of the chip and of KVM")]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct PitChannel {
    pub count: u32,
    pub latched_count: u16,
    pub count_latched: u8,
    pub status_latched: u8,
    pub status: u8,
    pub read_state: u8,
    pub write_state: u8,
    pub write_latch: u8,
    pub rw_mode: u8,
    pub mode: u8,
    pub bcd: u8,
    pub gate: u8,
    pub count_load_time: i64,
}

/// The i8254 timer (`struct kvm_pit_state2`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Pit {
    /// Its channels.
    pub channels: [PitChannel; 3],
    /// `KVM_PIT_FLAGS_*`.
    pub flags: u32,
}
