//! General and floating-point registers of an aarch64 vCPU.

use serde::Serialize;

use crate::state::bytes::{as_hex_number, as_hex_numbers};

/// The general registers, and those that exceptions use.
///
/// `SP_EL0`, `SP_EL1`, `ELR_EL1` and `SPSR_EL1` are here, and not with the system registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct CoreArm64 {
    /// X0 to X30.
    #[serde(serialize_with = "as_hex_numbers")]
    pub x: [u64; 31],
    /// The next instruction.
    #[serde(serialize_with = "as_hex_number")]
    pub pc: u64,
    /// PSTATE, laid out as in `SPSR_EL1`; Hypervisor.framework calls it CPSR.
    #[serde(serialize_with = "as_hex_number")]
    pub pstate: u64,
    /// Stack pointer of EL0.
    #[serde(serialize_with = "as_hex_number")]
    pub sp_el0: u64,
    /// Stack pointer of EL1.
    #[serde(serialize_with = "as_hex_number")]
    pub sp_el1: u64,
    /// Where EL1 returns to.
    #[serde(serialize_with = "as_hex_number")]
    pub elr_el1: u64,
    /// The state that EL1 returns to.
    #[serde(serialize_with = "as_hex_number")]
    pub spsr_el1: u64,
    /// `SPSR_abt`, `SPSR_und`, `SPSR_irq`, `SPSR_fiq`: of a 32-bit guest, else zero.
    #[serde(serialize_with = "as_hex_numbers")]
    pub spsr_aarch32: [u64; 4],
}

/// The floating-point and vector registers that every CPU has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct SimdArm64 {
    /// V0 to V31. With [`SveArm64`](super::SveArm64) they are the low 128 bits of Z0 to Z31.
    #[serde(serialize_with = "as_hex_numbers")]
    pub v: [u128; 32],
    /// Control.
    #[serde(serialize_with = "as_hex_number")]
    pub fpcr: u64,
    /// Status.
    #[serde(serialize_with = "as_hex_number")]
    pub fpsr: u64,
}
