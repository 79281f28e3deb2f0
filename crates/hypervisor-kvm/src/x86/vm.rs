//! Reading and writing what a machine has once: interrupt controllers, timer, clock.

use kvm_bindings as kvm;
use snapshot_format::state::{IoApic, Pic, VmX86};

use crate::calls::{Arg, Calls, Target};
use crate::error::KvmError;
use crate::lists::{read, write};
use crate::request as req;
use crate::x86::convert;

const IRQCHIP_BYTES: usize = size_of::<kvm::kvm_irqchip>();

/// Where the chip begins in `struct kvm_irqchip`, and the fields of `struct kvm_ioapic_state`.
const CHIP: usize = 8;
const IOAPIC_BASE: usize = CHIP;
const IOAPIC_SELECT: usize = CHIP + 8;
const IOAPIC_ID: usize = CHIP + 12;
const IOAPIC_IRR: usize = CHIP + 16;
const IOAPIC_TABLE: usize = CHIP + 24;

/// Which of its parts the kernel models.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct KernelDevices {
    /// Interrupt controllers and local APICs (`KVM_CREATE_IRQCHIP`).
    pub irqchip: bool,
    /// The timer (`KVM_CREATE_PIT2`).
    pub pit: bool,
}

impl KernelDevices {
    /// Both.
    pub const ALL: Self = Self {
        irqchip: true,
        pit: true,
    };

    /// None: the VMM models them.
    pub const NONE: Self = Self {
        irqchip: false,
        pit: false,
    };
}

/// Reads what the machine has once. Every vCPU must have been read before: that may still raise or
/// deliver interrupts.
pub(super) fn save_vm(
    calls: &mut (dyn Calls + '_),
    devices: KernelDevices,
    vcpu_count: usize,
) -> Result<VmX86, KvmError> {
    let mut saved = VmX86 {
        vcpu_count: u32::try_from(vcpu_count).unwrap_or(u32::MAX),
        ..VmX86::default()
    };
    if devices.pit {
        let pit: kvm::kvm_pit_state2 = calls.get(Target::Vm, req::KVM_GET_PIT2)?;
        saved.pit = Some(convert::from_pit(&pit));
    }
    let clock: kvm::kvm_clock_data = calls.get(Target::Vm, req::KVM_GET_CLOCK)?;
    saved.clock = Some(convert::from_clock(&clock));
    if devices.irqchip {
        let pic = |bytes: Vec<u8>| convert::from_pic(&read(&bytes, CHIP));
        saved.pic_master = Some(pic(get_chip(calls, kvm::KVM_IRQCHIP_PIC_MASTER)?));
        saved.pic_slave = Some(pic(get_chip(calls, kvm::KVM_IRQCHIP_PIC_SLAVE)?));
        saved.ioapic = Some(from_ioapic(&get_chip(calls, kvm::KVM_IRQCHIP_IOAPIC)?));
    }
    Ok(saved)
}

/// Writes what the machine has once, but for the clock. Every local APIC must be in place: an
/// asserted level line is delivered at once.
pub(super) fn restore_vm(calls: &mut (dyn Calls + '_), saved: &VmX86) -> Result<(), KvmError> {
    if let Some(pit) = &saved.pit {
        calls.set(Target::Vm, req::KVM_SET_PIT2, convert::to_pit(pit))?;
    }
    if let Some(pic) = &saved.pic_master {
        set_pic(calls, kvm::KVM_IRQCHIP_PIC_MASTER, pic)?;
    }
    if let Some(pic) = &saved.pic_slave {
        set_pic(calls, kvm::KVM_IRQCHIP_PIC_SLAVE, pic)?;
    }
    if let Some(ioapic) = &saved.ioapic {
        set_chip(calls, to_ioapic(ioapic))?;
    }
    Ok(())
}

fn chip(id: u32) -> Vec<u8> {
    let mut bytes = vec![0; IRQCHIP_BYTES];
    write(&mut bytes, 0, &id);
    bytes
}

fn get_chip(calls: &mut (dyn Calls + '_), id: u32) -> Result<Vec<u8>, KvmError> {
    let mut bytes = chip(id);
    calls.make(Target::Vm, req::KVM_GET_IRQCHIP, Arg::Bytes(&mut bytes))?;
    Ok(bytes)
}

fn set_chip(calls: &mut (dyn Calls + '_), mut bytes: Vec<u8>) -> Result<(), KvmError> {
    calls
        .make(Target::Vm, req::KVM_SET_IRQCHIP, Arg::Bytes(&mut bytes))
        .map(drop)
}

fn set_pic(calls: &mut (dyn Calls + '_), id: u32, pic: &Pic) -> Result<(), KvmError> {
    let mut bytes = chip(id);
    write(&mut bytes, CHIP, &convert::to_pic(pic));
    set_chip(calls, bytes)
}

fn from_ioapic(bytes: &[u8]) -> IoApic {
    let mut redirection = [0; 24];
    for (number, entry) in redirection.iter_mut().enumerate() {
        *entry = read(bytes, IOAPIC_TABLE + 8 * number);
    }
    IoApic {
        base_address: read(bytes, IOAPIC_BASE),
        ioregsel: read(bytes, IOAPIC_SELECT),
        id: read(bytes, IOAPIC_ID),
        irr: read(bytes, IOAPIC_IRR),
        redirection,
    }
}

fn to_ioapic(ioapic: &IoApic) -> Vec<u8> {
    let mut bytes = chip(kvm::KVM_IRQCHIP_IOAPIC);
    write(&mut bytes, IOAPIC_BASE, &ioapic.base_address);
    write(&mut bytes, IOAPIC_SELECT, &ioapic.ioregsel);
    write(&mut bytes, IOAPIC_ID, &ioapic.id);
    write(&mut bytes, IOAPIC_IRR, &ioapic.irr);
    for (number, entry) in ioapic.redirection.iter().enumerate() {
        write(&mut bytes, IOAPIC_TABLE + 8 * number, entry);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ioapic_survives_the_kernels_layout() {
        let ioapic = IoApic {
            base_address: 0xfec0_0000,
            ioregsel: 3,
            id: 4,
            irr: 5,
            redirection: std::array::from_fn(|n| 100 + n as u64),
        };
        let bytes = to_ioapic(&ioapic);
        assert_eq!(from_ioapic(&bytes), ioapic);
        assert_eq!(
            std::mem::offset_of!(kvm::kvm_ioapic_state, redirtbl) + CHIP,
            IOAPIC_TABLE
        );
    }
}
