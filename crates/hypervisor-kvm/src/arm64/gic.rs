//! Access to the registers of interrupt controllers, of whatever version.

use snapshot_format::state::GicRegister;

use super::abi;
use crate::calls::{Calls, Target, refused};
use crate::error::KvmError;
use crate::request::arm64 as req;

/// The interrupt controller is the first device of a machine, translation services come after it.
pub(super) const GIC: Target = Target::Device(0);

/// Service `n` of a machine.
pub(super) fn its(n: usize) -> Target {
    Target::Device(n + 1)
}

/// Reads an attribute.
pub(super) fn get(
    calls: &mut (dyn Calls + '_),
    device: Target,
    group: u32,
    number: u64,
) -> Result<u64, KvmError> {
    get_into(calls, device, group, number, 0)
}

/// Reads an attribute that says by its old value what it is asked for.
pub(super) fn get_into(
    calls: &mut (dyn Calls + '_),
    device: Target,
    group: u32,
    number: u64,
    mut value: u64,
) -> Result<u64, KvmError> {
    let request = req::KVM_GET_DEVICE_ATTR;
    calls
        .attribute(device, request, group, number, &mut value)
        .map_err(|source| refused(device, request, source))?;
    Ok(value)
}

/// Writes an attribute.
pub(super) fn set(
    calls: &mut (dyn Calls + '_),
    device: Target,
    group: u32,
    number: u64,
    mut value: u64,
) -> Result<(), KvmError> {
    let request = req::KVM_SET_DEVICE_ATTR;
    calls
        .attribute(device, request, group, number, &mut value)
        .map_err(|source| refused(device, request, source))
}

/// Has a device do something.
pub(super) fn command(
    calls: &mut (dyn Calls + '_),
    device: Target,
    number: u64,
) -> Result<(), KvmError> {
    set(calls, device, abi::GIC_CTRL, number, 0)
}

/// A frame of registers: its group, and what is above the offset in the attribute.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Frame {
    pub(super) group: u32,
    /// The vCPU, in bits 63:32: by affinity for a GICv3, by number for a GICv2.
    pub(super) cpu: u64,
}

impl Frame {
    /// The distributor of a GICv3, which belongs to no vCPU, and of a GICv2 as the first sees it.
    pub(super) const DISTRIBUTOR: Self = Self {
        group: abi::GIC_DIST_REGS,
        cpu: 0,
    };

    fn attribute(self, offset: u32) -> u64 {
        self.cpu << 32 | u64::from(offset)
    }

    /// Reads a register; one of 64 bits is two of 32 to the kernel.
    pub(super) fn get(
        self,
        calls: &mut (dyn Calls + '_),
        offset: u32,
        is_wide: bool,
    ) -> Result<u64, KvmError> {
        let mut half = |offset| get(calls, GIC, self.group, self.attribute(offset));
        let low = half(offset)?;
        let high = if is_wide { half(offset + 4)? } else { 0 };
        Ok(high << 32 | low & 0xffff_ffff)
    }

    /// Writes a register.
    pub(super) fn set(
        self,
        calls: &mut (dyn Calls + '_),
        offset: u32,
        value: u64,
        is_wide: bool,
    ) -> Result<(), KvmError> {
        let mut half = |offset, half| set(calls, GIC, self.group, self.attribute(offset), half);
        half(offset, value & 0xffff_ffff)?;
        if is_wide {
            half(offset + 4, value >> 32)?;
        }
        Ok(())
    }
}

/// Registers of one kind: every `step` bytes from `first` to before `end`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Bank {
    pub(super) first: u32,
    pub(super) end: u32,
    pub(super) is_wide: bool,
    /// The bank that clears what this one sets, which must be cleared first: writing can only set.
    pub(super) clear: Option<u32>,
}

impl Bank {
    /// One register of 32 bits.
    pub(super) const fn one(offset: u32) -> Self {
        Self::words(offset, offset + 4)
    }

    /// One register of 64 bits.
    pub(super) const fn wide(first: u32, end: u32) -> Self {
        Self {
            first,
            end,
            is_wide: true,
            clear: None,
        }
    }

    /// Registers of 32 bits.
    pub(super) const fn words(first: u32, end: u32) -> Self {
        Self {
            first,
            end,
            is_wide: false,
            clear: None,
        }
    }

    /// Registers of 32 bits of which writing sets bits, and those that clear them.
    pub(super) const fn set_and_clear(first: u32, end: u32, clear: u32) -> Self {
        let mut bank = Self::words(first, end);
        bank.clear = Some(clear);
        bank
    }

    fn offsets(self) -> impl Iterator<Item = u32> {
        (self.first..self.end).step_by(if self.is_wide { 8 } else { 4 })
    }

    /// Reads all of it.
    pub(super) fn save(
        self,
        calls: &mut (dyn Calls + '_),
        frame: Frame,
        saved: &mut Vec<GicRegister>,
    ) -> Result<(), KvmError> {
        for offset in self.offsets() {
            let value = frame.get(calls, offset, self.is_wide)?;
            saved.push(GicRegister { offset, value });
        }
        Ok(())
    }

    /// Writes what was saved of it.
    pub(super) fn restore(
        self,
        calls: &mut (dyn Calls + '_),
        frame: Frame,
        saved: &[GicRegister],
    ) -> Result<(), KvmError> {
        for register in saved.iter().filter(|r| self.holds(r.offset)) {
            if let Some(clear) = self.clear {
                let clear = clear + (register.offset - self.first);
                frame.set(calls, clear, 0xffff_ffff, false)?;
            }
            frame.set(calls, register.offset, register.value, self.is_wide)?;
        }
        Ok(())
    }

    /// Whether a register is of this bank.
    pub(super) fn holds(self, offset: u32) -> bool {
        (self.first..self.end).contains(&offset)
            && (offset - self.first).is_multiple_of(if self.is_wide { 8 } else { 4 })
    }
}
