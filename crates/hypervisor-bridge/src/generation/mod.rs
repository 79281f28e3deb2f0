//! The VM generation id: 128 bits in guest memory that tell a guest that it was cloned.
//!
//! As in Microsoft's "Virtual Machine Generation ID" of August 2012 and in `drivers/virt/vmgenid.c`
//! of Linux, which reseeds its random numbers when it is notified and finds another id.

mod table;

use std::fmt;

use snapshot_format::GuestAddress;

pub use table::AcpiNames;

/// Bytes of a generation id.
pub const GENERATION_ID_BYTES: u64 = 16;

/// The id must lie at a multiple of so many bytes.
const ALIGNMENT: u64 = 8;

/// A generation id. It has no order: another one is a new one.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct GenerationId(pub [u8; 16]);

impl GenerationId {
    /// A new one, of 128 random bits of the host's kernel.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes))
    }
}

/// As a GUID whose bytes are in the order of memory.
impl fmt::Display for GenerationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for GenerationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GenerationId({self})")
    }
}

/// The event that makes the guest look at its generation id.
///
/// The firmware tables that the guest booted with turn it into `Notify (VGEN, 0x80)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GenerationEvent {
    /// A general purpose event of ACPI: the VMM sets this bit of the GPE status register and, where
    /// it is enabled, raises the system control interrupt.
    Gpe(u8),
    /// An interrupt of its own, by its global number, edge-triggered and active high: the VMM pulses
    /// the line.
    Interrupt(u32),
}

impl fmt::Display for GenerationEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gpe(number) => write!(f, "general purpose event {number:#x}"),
            Self::Interrupt(number) => write!(f, "interrupt {number}"),
        }
    }
}

/// The device that holds a machine's generation id. It is the same for as long as the guest lives:
/// the tables that the guest read at boot name the address and the event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GenerationDevice {
    address: GuestAddress,
    event: GenerationEvent,
}

/// No generation id can lie at this address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "a generation id cannot lie at {address}: {GENERATION_ID_BYTES} bytes at a multiple of {ALIGNMENT} are needed"
)]
pub struct BadGenerationAddress {
    /// The address.
    pub address: GuestAddress,
}

impl GenerationDevice {
    /// The value of `compatible` where the device is announced by a devicetree; its `reg` is
    /// [`address`](Self::address) and 16, its `interrupts` one that rises.
    pub const COMPATIBLE: &'static str = "microsoft,vmgenid";

    /// A device whose id lies at `address`, which the guest finds in no memory map as usable.
    pub fn new(
        address: GuestAddress,
        event: GenerationEvent,
    ) -> Result<Self, BadGenerationAddress> {
        let ends = address.0.checked_add(GENERATION_ID_BYTES).is_some();
        if ends && address.0.is_multiple_of(ALIGNMENT) {
            Ok(Self { address, event })
        } else {
            Err(BadGenerationAddress { address })
        }
    }

    /// Where the id lies.
    #[must_use]
    pub fn address(&self) -> GuestAddress {
        self.address
    }

    /// What makes the guest look.
    #[must_use]
    pub fn event(&self) -> GenerationEvent {
        self.event
    }
}

#[cfg(test)]
mod tests;
