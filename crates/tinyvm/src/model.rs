//! The program again, as Rust: what runs it where there is no KVM, and what KVM is held against.

use snapshot_format::state::Registers;
use snapshot_format::{GuestAddress, PAGE_SHIFT};
use snapshot_memory::{MemoryError, WriteMarker};

use crate::config::GuestConfig;
use crate::device::PortDevice;
use crate::memory::GuestMemory;
use crate::program::{
    CODE, END_FLAGS, END_OFFSET, PORT_ANSWER, PORT_DONE, REPORT_STEPS, VECTOR_IN, VECTOR_OUT,
    entry_registers, next,
};

/// Guest memory as the model writes it.
#[derive(Clone, Debug)]
pub(crate) struct ModelMemory {
    pub(crate) memory: GuestMemory,
    /// Where writes are marked, if nothing else notices them.
    pub(crate) marker: Option<WriteMarker>,
}

impl ModelMemory {
    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        self.memory.mapped().write(address, bytes)?;
        if let Some(marker) = &self.marker {
            marker.mark_bytes(GuestAddress(address), bytes.len() as u64);
        }
        Ok(())
    }
}

/// A CPU that knows this one program.
///
/// It stops between steps only, where `rip` is not looked at: its registers equal those of the
/// real one at the end, and are its own before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Model {
    pub(crate) registers: Registers,
}

impl Model {
    pub(crate) fn new(config: &GuestConfig) -> Self {
        Self {
            registers: entry_registers(config),
        }
    }

    /// Whether the program has ended.
    pub(crate) fn is_done(&self) -> bool {
        self.registers.rip == CODE + END_OFFSET
    }

    /// Does one step, and what follows the last one.
    pub(crate) fn step(
        &mut self,
        memory: &ModelMemory,
        device: &mut PortDevice,
    ) -> Result<(), MemoryError> {
        let r = &mut self.registers;
        r.rax = next(r.rax);
        r.rbx = ((r.rax >> 32).wrapping_mul(r.r10) >> 32) << PAGE_SHIFT;
        memory.write(r.rdi + r.rbx, &r.rax.to_le_bytes())?;
        r.rcx += 1;
        if r.rcx.is_multiple_of(REPORT_STEPS) {
            device.steps = r.rcx;
            let answer = u64::from(device.answer());
            r.r11 = r.r11.wrapping_mul(r.r8).wrapping_add(answer);
            r.r12 = r.rax;
            r.rdx = PORT_ANSWER.into();
        }
        if r.rcx >= r.rsi {
            self.end(memory, device)?;
        }
        Ok(())
    }

    fn end(&mut self, memory: &ModelMemory, device: &mut PortDevice) -> Result<(), MemoryError> {
        let mut vector = [0; 16];
        memory.memory.mapped().read(VECTOR_IN, &mut vector)?;
        memory.write(VECTOR_OUT, &vector)?;
        let r = &mut self.registers;
        let checksum = r.r11 & u64::from(u32::MAX);
        r.rax = checksum;
        r.rdx = PORT_DONE.into();
        r.rip = CODE + END_OFFSET;
        r.rflags = END_FLAGS;
        device.checksum = u32::try_from(checksum).ok();
        Ok(())
    }
}
