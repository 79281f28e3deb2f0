//! What an exception says of an access to memory, and how an access to a device is completed.

use crate::hv::Hv;
use crate::hv::{Register, VcpuHandle};
use crate::refusal::HvRefusal;

const EC_SHIFT: u32 = 26;
/// Exception classes of `ESR_ELx`.
const EC_WAIT: u64 = 0x01;
const EC_CALL: u64 = 0x16;
const EC_INSTRUCTION_ABORT: u64 = 0x20;
const EC_DATA_ABORT: u64 = 0x24;

/// `WFE`, `WFET`.
const FOR_EVENT: u64 = 1;

/// Bits of the syndrome of an abort.
const VALID: u64 = 1 << 24;
const SIGNED: u64 = 1 << 21;
const WIDE: u64 = 1 << 15;
const ON_WALK: u64 = 1 << 7;
const WRITE: u64 = 1 << 6;
/// Fault status: permission, at whatever level.
const FAULT_KIND: u64 = 0b11_1100;
const PERMISSION_FAULT: u64 = 0b00_1100;

/// Bytes of an instruction.
const INSTRUCTION_BYTES: u64 = 4;

/// What kind of exception ended a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Syndrome {
    /// `WFI` or `WFE`. The program counter is at it.
    Wait {
        /// Whether only an interrupt ends it: an event, as `WFE` waits for, comes from another
        /// vCPU without anybody seeing it.
        for_interrupt: bool,
    },
    /// `HVC`. The program counter is behind it.
    Call,
    /// Memory that the guest may not write, or that is not there.
    Abort {
        /// Whether the access may have been a write: what write protection has to answer.
        may_write: bool,
        /// What a device is asked; `None` where the instruction does not say.
        access: Option<Access>,
    },
    /// Something else.
    Other,
}

/// An access to a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    /// How many bytes: 1, 2, 4 or 8.
    pub len_bytes: u8,
    /// Whether it is a store.
    pub is_write: bool,
    register: u8,
    is_signed: bool,
    is_wide: bool,
}

impl Syndrome {
    /// Reads `ESR_EL2`.
    pub(crate) fn of(esr: u64) -> Self {
        match esr >> EC_SHIFT & 0x3f {
            EC_WAIT => Self::Wait {
                for_interrupt: esr & FOR_EVENT == 0,
            },
            EC_CALL => Self::Call,
            class @ (EC_DATA_ABORT | EC_INSTRUCTION_ABORT) => {
                let is_data = class == EC_DATA_ABORT;
                // A walk that was refused by permission wants to set a flag in a page table: it
                // writes, whatever the access that it is for.
                let is_refused = esr & FAULT_KIND == PERMISSION_FAULT;
                let on_walk = esr & ON_WALK != 0;
                let may_write = if on_walk {
                    is_refused
                } else {
                    is_data && esr & WRITE != 0
                };
                let is_access = is_data && !on_walk && esr & VALID != 0;
                Self::Abort {
                    may_write,
                    access: is_access.then(|| Access::of(esr)),
                }
            }
            _ => Self::Other,
        }
    }
}

impl Access {
    fn of(esr: u64) -> Self {
        // Two bits and five bits: both fit.
        let size = u32::try_from(esr >> 22 & 3).unwrap_or(0);
        let register = u8::try_from(esr >> 16 & 31).unwrap_or(31);
        Self {
            len_bytes: 1 << size,
            is_write: esr & WRITE != 0,
            register,
            is_signed: esr & SIGNED != 0,
            is_wide: esr & WIDE != 0,
        }
    }

    /// What a load leaves in its register when the device says `value`.
    fn loaded(self, value: u64) -> u64 {
        let unused = 64 - 8 * u32::from(self.len_bytes);
        let value = if self.is_signed {
            (value << unused).cast_signed() >> unused
        } else {
            (value << unused >> unused).cast_signed()
        };
        let value = value.cast_unsigned();
        if self.is_wide {
            value
        } else {
            value & u64::from(u32::MAX)
        }
    }

    /// The value that a store writes, cut to its length.
    pub(crate) fn stored(self, hv: &dyn Hv, vcpu: VcpuHandle) -> Result<u64, HvRefusal> {
        let unused = 64 - 8 * u32::from(self.len_bytes);
        // Register 31 is the zero register here.
        let value = match Register::x(self.register.into()) {
            Some(register) => hv.register(vcpu, register)?,
            None => 0,
        };
        Ok(value << unused >> unused)
    }

    /// Ends the access: the answer of a load goes to its register, and the program counter behind
    /// the instruction. Call it on the vCPU's thread.
    pub(crate) fn complete(
        self,
        hv: &dyn Hv,
        vcpu: VcpuHandle,
        answer: u64,
    ) -> Result<(), HvRefusal> {
        if !self.is_write
            && let Some(register) = Register::x(self.register.into())
        {
            hv.set_register(vcpu, register, self.loaded(answer))?;
        }
        skip_instruction(hv, vcpu)
    }
}

/// Moves the program counter behind the instruction that it is at.
pub(crate) fn skip_instruction(hv: &dyn Hv, vcpu: VcpuHandle) -> Result<(), HvRefusal> {
    let pc = hv.register(vcpu, Register::PC)?;
    hv.set_register(vcpu, Register::PC, pc.wrapping_add(INSTRUCTION_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: u64 = EC_DATA_ABORT << EC_SHIFT | 1 << 25;

    fn load(size: u64, is_signed: bool, is_wide: bool) -> Access {
        let signed = if is_signed { SIGNED } else { 0 };
        let wide = if is_wide { WIDE } else { 0 };
        let esr = DATA | VALID | size << 22 | 7 << 16 | signed | wide | 0x07;
        match Syndrome::of(esr) {
            Syndrome::Abort {
                may_write: false,
                access: Some(access),
            } => access,
            other => unreachable!("{other:?}"),
        }
    }

    // spec: HVF-04
    #[test]
    fn a_load_is_extended_as_its_instruction_says() {
        for (access, answer, expected) in [
            (load(0, false, true), 0xabcd_ef80, 0x80),
            (load(0, true, true), 0x80, 0xffff_ffff_ffff_ff80),
            (load(0, true, false), 0x80, 0xffff_ff80),
            (load(1, true, false), 0x7fff, 0x7fff),
            (load(2, false, false), 0x1_8000_0000, 0x8000_0000),
            (load(2, true, true), 0x8000_0000, 0xffff_ffff_8000_0000),
            (load(3, false, true), u64::MAX, u64::MAX),
        ] {
            assert_eq!(access.loaded(answer), expected, "{access:?}");
        }
    }

    // spec: HVF-13
    #[test]
    fn writes_of_page_walks_are_writes_and_reads_are_not() {
        let may_write = |esr| match Syndrome::of(esr) {
            Syndrome::Abort { may_write, access } => (may_write, access.is_some()),
            other => unreachable!("{other:?}"),
        };
        assert_eq!(may_write(DATA | WRITE | 0x0f), (true, false));
        assert_eq!(may_write(DATA | 0x0f), (false, false));
        assert_eq!(may_write(DATA | ON_WALK | 0x0d), (true, false));
        assert_eq!(may_write(DATA | ON_WALK | 0x07), (false, false));
        let fetch = EC_INSTRUCTION_ABORT << EC_SHIFT;
        assert_eq!(may_write(fetch | ON_WALK | 0x0f), (true, false));
        assert_eq!(may_write(fetch | WRITE | 0x0f), (false, false));
        assert_eq!(Syndrome::of(0x18 << EC_SHIFT), Syndrome::Other);
    }
}
