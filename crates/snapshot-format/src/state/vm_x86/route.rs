//! The routes of a machine's interrupts, as `KVM_SET_GSI_ROUTING` takes them.

use serde::Serialize;

/// `KVM_IRQ_ROUTING_IRQCHIP`
const IRQCHIP: u32 = 1;
/// `KVM_IRQ_ROUTING_MSI`
const MSI: u32 = 2;
/// `KVM_MSI_VALID_DEVID`
const VALID_DEVICE: u32 = 1;

/// Where one interrupt line goes (`struct kvm_irq_routing_entry`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct GsiRoute {
    /// The line: a global system interrupt.
    pub gsi: u32,
    /// `KVM_IRQ_ROUTING_*`: how the words are read.
    pub kind: u32,
    /// `KVM_MSI_VALID_DEVID`, or none.
    pub flags: u32,
    /// The kernel's union of targets, in words of 32 bits; what the kind does not use is zero.
    pub words: [u32; 8],
}

impl GsiRoute {
    /// To a pin of one of the kernel's chips (`KVM_IRQCHIP_*`).
    #[must_use]
    pub const fn to_chip(gsi: u32, chip: u32, pin: u32) -> Self {
        Self {
            gsi,
            kind: IRQCHIP,
            flags: 0,
            words: [chip, pin, 0, 0, 0, 0, 0, 0],
        }
    }

    /// To a message: what a device writes where, and which device where that counts.
    #[must_use]
    pub fn to_message(gsi: u32, address: u64, data: u32, device: Option<u32>) -> Self {
        let half = |shift: u32| u32::try_from(address >> shift & u64::from(u32::MAX));
        let (low, high) = (half(0).unwrap_or_default(), half(32).unwrap_or_default());
        Self {
            gsi,
            kind: MSI,
            flags: if device.is_some() { VALID_DEVICE } else { 0 },
            words: [low, high, data, device.unwrap_or_default(), 0, 0, 0, 0],
        }
    }

    /// The chip and the pin, if it goes to one of the kernel's chips.
    #[must_use]
    pub const fn chip(&self) -> Option<(u32, u32)> {
        match (self.kind, self.words) {
            (IRQCHIP, [chip, pin, ..]) => Some((chip, pin)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_keeps_its_address_and_its_device() {
        let route = GsiRoute::to_message(24, 0x1_fee0_1000, 0x40, Some(8));
        assert_eq!(route.words, [0xfee0_1000, 1, 0x40, 8, 0, 0, 0, 0]);
        assert_eq!((route.flags, route.chip()), (VALID_DEVICE, None));
        assert_eq!(GsiRoute::to_message(24, 0, 0, None).flags, 0);
    }

    #[test]
    fn a_route_to_a_chip_names_its_pin() {
        assert_eq!(GsiRoute::to_chip(2, 2, 7).chip(), Some((2, 7)));
    }
}
