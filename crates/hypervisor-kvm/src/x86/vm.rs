//! Reading and writing what a machine has once: interrupt controllers, timer, clock.

use kvm_bindings as kvm;
use snapshot_format::state::{Clock, GsiRoute, IoApic, Pic, VmX86};

use crate::calls::{Arg, Calls, Target};
use crate::error::KvmError;
use crate::lists::{encode_list, read, write};
use crate::request as req;
use crate::x86::options::KvmOptions;
use crate::x86::{clock, convert};

const IRQCHIP_BYTES: usize = size_of::<kvm::kvm_irqchip>();

/// Where the chip begins in `struct kvm_irqchip`, and the fields of `struct kvm_ioapic_state`.
const CHIP: usize = 8;
const IOAPIC_BASE: usize = CHIP;
const IOAPIC_SELECT: usize = CHIP + 8;
const IOAPIC_ID: usize = CHIP + 12;
const IOAPIC_IRR: usize = CHIP + 16;
const IOAPIC_TABLE: usize = CHIP + 24;

/// Which interrupt controllers the kernel models.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Irqchip {
    /// None: the VMM models them, local APICs included.
    None,
    /// The local APICs, by `KVM_CAP_SPLIT_IRQCHIP`; the VMM models PICs and I/O APIC.
    Split {
        /// Lines that were reserved for the VMM's I/O APIC when the capability was enabled.
        lines: u32,
    },
    /// All of them, by `KVM_CREATE_IRQCHIP`.
    Kernel,
}

/// Which of its parts the kernel models.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct KernelDevices {
    /// Interrupt controllers.
    pub irqchip: Irqchip,
    /// The timer (`KVM_CREATE_PIT2`).
    pub pit: bool,
}

impl KernelDevices {
    /// Interrupt controllers and timer.
    pub const ALL: Self = Self {
        irqchip: Irqchip::Kernel,
        pit: true,
    };

    /// None: the VMM models them.
    pub const NONE: Self = Self {
        irqchip: Irqchip::None,
        pit: false,
    };

    /// The local APICs alone, with so many lines reserved for the VMM's I/O APIC.
    #[must_use]
    pub const fn split(lines: u32) -> Self {
        Self {
            irqchip: Irqchip::Split { lines },
            pit: false,
        }
    }

    /// Whether the kernel models the local APICs.
    pub(super) fn has_local_apics(self) -> bool {
        self.irqchip != Irqchip::None
    }

    /// The lines of a split controller.
    pub(super) fn split_lines(self) -> Option<u32> {
        match self.irqchip {
            Irqchip::Split { lines } => Some(lines),
            Irqchip::None | Irqchip::Kernel => None,
        }
    }
}

/// Reads what the machine has once. Every vCPU must have been read before: that may still raise or
/// deliver interrupts.
pub(super) fn save_vm(
    calls: &mut (dyn Calls + '_),
    options: &KvmOptions,
    vcpu_count: usize,
) -> Result<VmX86, KvmError> {
    let devices = options.devices;
    let mut saved = VmX86 {
        vcpu_count: u32::try_from(vcpu_count).unwrap_or(u32::MAX),
        split_lines: devices.split_lines(),
        routes: options.routes.clone(),
        ..VmX86::default()
    };
    if devices.pit {
        let pit: kvm::kvm_pit_state2 = calls.get(Target::Vm, req::KVM_GET_PIT2)?;
        known("the timer", pit.reserved == [0; 9])?;
        saved.pit = Some(convert::from_pit(&pit));
    }
    saved.clock = Some(read_clock(calls)?);
    if devices.irqchip == Irqchip::Kernel {
        let pic = |bytes: Vec<u8>| convert::from_pic(&read(&bytes, CHIP));
        saved.pic_master = Some(pic(get_chip(calls, kvm::KVM_IRQCHIP_PIC_MASTER)?));
        saved.pic_slave = Some(pic(get_chip(calls, kvm::KVM_IRQCHIP_PIC_SLAVE)?));
        saved.ioapic = Some(from_ioapic(&get_chip(calls, kvm::KVM_IRQCHIP_IOAPIC)?));
    }
    Ok(saved)
}

/// The guest's clock, and the wall clock even where the kernel does not give it.
pub(super) fn read_clock(calls: &mut (dyn Calls + '_)) -> Result<Clock, KvmError> {
    let clock: kvm::kvm_clock_data = calls.get(Target::Vm, req::KVM_GET_CLOCK)?;
    let mut clock = convert::from_clock(&clock);
    if clock.flags & kvm::KVM_CLOCK_REALTIME == 0 {
        clock.realtime_ns = clock::wall_clock_ns();
    }
    Ok(clock)
}

fn known(what: &'static str, known: bool) -> Result<(), KvmError> {
    let unknown = KvmError::UnknownState { vcpu: None, what };
    if known { Ok(()) } else { Err(unknown) }
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
    // After the chips that it leads to, before the VMM attaches its eventfds to lines.
    saved
        .routes
        .as_ref()
        .map_or(Ok(()), |routes| set_routes(calls, routes))
}

/// Bytes before the entries of `struct kvm_irq_routing`.
const ROUTING_HEADER: usize = 8;

fn set_routes(calls: &mut (dyn Calls + '_), routes: &[GsiRoute]) -> Result<(), KvmError> {
    let entries: Vec<[u32; 12]> = routes.iter().map(to_route).collect();
    let mut bytes = encode_list(ROUTING_HEADER, &entries);
    calls
        .make(Target::Vm, req::KVM_SET_GSI_ROUTING, Arg::Bytes(&mut bytes))
        .map(drop)
}

/// `struct kvm_irq_routing_entry`: line, kind, flags, padding, and the words of its union.
fn to_route(route: &GsiRoute) -> [u32; 12] {
    let mut entry = [
        route.gsi,
        route.kind,
        route.flags,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
    ];
    if let Some(words) = entry.last_chunk_mut() {
        *words = route.words;
    }
    entry
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
    fn a_route_has_the_kernels_layout() {
        let route = GsiRoute::to_message(24, 0x1_fee0_1000, 0x40, Some(8));
        let words = to_route(&route);
        assert_eq!(words[..8], [24, 2, 1, 0, 0xfee0_1000, 1, 0x40, 8]);
        assert_eq!(
            (size_of_val(&words), size_of::<kvm::kvm_irq_routing>()),
            (size_of::<kvm::kvm_irq_routing_entry>(), ROUTING_HEADER)
        );
        assert_eq!(
            std::mem::offset_of!(kvm::kvm_irq_routing_entry, u),
            4 * size_of::<u32>()
        );
    }

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
