//! The CPU's state on its way into a snapshot and back.

use std::sync::Arc;

use hypervisor_bridge::{
    ClockPolicy, DeviceRestore, Devices, Paused, StateCapture, StateRestore, StepError,
};
use snapshot_format::state::{DeviceState, Fingerprint, Reason, Registers};
use snapshot_format::{Arch, PAGE_BYTES, SectionKind, SectionOffers, SectionPayload};

use super::cpu::Shared;
use crate::device::PortDevice;
use crate::error::GuestError;

/// The section of the CPU: eighteen registers of eight bytes, little-endian.
const CPU: SectionKind = SectionKind(SectionKind::CALLER.0 | 1);
const CPU_VERSION: u16 = 1;

/// What the guest needs of a host: nothing but this crate.
pub(crate) fn fingerprint() -> Fingerprint {
    Fingerprint {
        arch: Arch::None.number(),
        vendor: "process".to_owned(),
        page_bytes: u32::try_from(PAGE_BYTES).unwrap_or(u32::MAX),
        ..Fingerprint::default()
    }
}

fn encode(registers: &Registers) -> Vec<u8> {
    let named = registers.named().into_iter();
    named.flat_map(|(_, value)| value.to_le_bytes()).collect()
}

fn decode(bytes: &[u8]) -> Option<Registers> {
    let (words, []) = bytes.as_chunks::<8>() else {
        return None;
    };
    let words: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
    let words: [u64; 18] = words.try_into().ok()?;
    let [
        rax,
        rbx,
        rcx,
        rdx,
        rsi,
        rdi,
        rsp,
        rbp,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
        rip,
        rflags,
    ] = words;
    Some(Registers {
        rax,
        rbx,
        rcx,
        rdx,
        rsi,
        rdi,
        rsp,
        rbp,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
        rip,
        rflags,
    })
}

/// The section of a CPU with these registers.
pub(super) fn cpu_section(vcpu: usize, registers: &Registers) -> Result<SectionPayload, StepError> {
    let instance = u32::try_from(vcpu)?;
    let bytes = encode(registers);
    Ok(SectionPayload::raw(CPU, instance, CPU_VERSION, bytes))
}

/// The registers in a snapshot's state.
pub(crate) fn take_registers(offers: &mut SectionOffers) -> Option<Registers> {
    let section = offers.take_payload(CPU, 0)?;
    let known = Some(section).filter(|section| section.version == CPU_VERSION);
    known.and_then(|section| decode(&section.bytes))
}

/// Captures the CPU and its port.
pub(super) struct Source {
    pub(super) shared: Arc<Shared>,
}

impl StateCapture for Source {
    fn vcpu_count(&self) -> usize {
        1
    }

    fn notify_paused(&mut self, _: usize, _: &Paused) -> Result<(), StepError> {
        // The program has no watchdog.
        Ok(())
    }

    fn capture_vcpu(&mut self, vcpu: usize, _: &Paused) -> Result<SectionPayload, StepError> {
        cpu_section(vcpu, &self.shared.lock().model.registers)
    }

    fn capture_vm(&mut self, _: &Paused) -> Result<Vec<SectionPayload>, StepError> {
        Ok(vec![SectionPayload::of(0, &fingerprint())])
    }
}

/// The port, of which nothing is ever in flight.
pub(super) struct Port {
    pub(super) shared: Arc<Shared>,
    /// How far the guest was when the port was read.
    pub(super) steps: u64,
    pub(super) ended: bool,
}

impl Devices for Port {
    fn quiesce(&mut self, _: &Paused) -> Result<(), StepError> {
        Ok(())
    }

    fn capture(&mut self, _: &Paused) -> Result<Vec<DeviceState>, StepError> {
        let cpu = self.shared.lock();
        self.steps = cpu.device.steps;
        self.ended = cpu.model.is_done();
        Ok(vec![cpu.device.save()])
    }

    fn resume(&mut self) -> Result<(), StepError> {
        Ok(())
    }
}

/// Restores the CPU, before its thread starts.
#[derive(Default)]
pub(super) struct Target {
    taken: Option<Registers>,
    /// What was restored.
    pub(super) registers: Option<Registers>,
}

impl StateRestore for Target {
    fn host(&mut self) -> Result<Fingerprint, StepError> {
        Ok(fingerprint())
    }

    fn take(
        &mut self,
        offers: &mut SectionOffers,
        // It has no clock that could stop or advance.
        _: ClockPolicy,
    ) -> Result<Vec<Reason>, StepError> {
        let Some(section) = offers.take_payload(CPU, 0) else {
            return Ok(vec![Reason::MissingSection {
                section: CPU,
                instance: 0,
            }]);
        };
        let known = Some(section).filter(|section| section.version == CPU_VERSION);
        let registers = known.and_then(|section| decode(&section.bytes));
        let wanted = "process";
        self.taken = Some(registers.ok_or(GuestError::ForeignState { wanted })?);
        Ok(Vec::new())
    }

    fn prepare(&mut self) -> Result<(), StepError> {
        // It has no clock.
        Ok(())
    }

    fn vcpu_count(&self) -> usize {
        1
    }

    fn restore_vcpu(&mut self, _: usize) -> Result<(), StepError> {
        self.registers = self.taken.take();
        Ok(())
    }

    fn restore_vm(&mut self) -> Result<(), StepError> {
        // Nothing belongs to the machine alone.
        Ok(())
    }
}

/// Restores the port, before its thread starts.
#[derive(Default)]
pub(super) struct PortTarget {
    /// What was restored.
    pub(super) device: Option<PortDevice>,
}

impl DeviceRestore for PortTarget {
    fn restore(&mut self, devices: Vec<DeviceState>) -> Result<(), StepError> {
        let [saved] = devices.as_slice() else {
            let wanted = crate::device::KIND;
            return Err(GuestError::ForeignState { wanted }.into());
        };
        self.device = Some(PortDevice::restore(saved)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_survive_their_bytes() {
        let registers = Registers {
            rax: 1,
            rflags: 2,
            r15: u64::MAX,
            ..Registers::default()
        };
        assert_eq!(decode(&encode(&registers)), Some(registers));
        assert_eq!(decode(&[0; 143]), None);
    }
}
