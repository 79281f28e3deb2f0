//! What an aarch64 machine needs of a host, and what such a host offers.

use serde::Serialize;

use super::{Fingerprint, Reason};
use crate::state::bytes::{as_hex_number, as_hex_numbers};
use crate::state::hypervisor::Hypervisor;
use crate::state::system_register::{SystemRegister, SystemRegisterId, register_value};
use crate::state::vm_arm64::GicVersion;

/// The part of a fingerprint that only aarch64 has.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct FingerprintArm64 {
    /// The hypervisor; what crosses from one to another is in `specs/11-arm64-state.md`.
    pub hypervisor: Hypervisor,
    /// Registers that say which features the CPU has, sorted: what the guest was shown, or what
    /// the host can show.
    pub id_registers: Vec<SystemRegister>,
    /// Ticks of the counter in a second; 0 where it is not known.
    pub counter_hz: u64,
    /// Bits of a guest physical address: what the machine was made with, or the host's most.
    pub address_bits: u8,
    /// The interrupt controller of the machine, or the latest that the host has.
    pub gic: GicVersion,
    /// Interrupts of it, private ones included: how many the machine has, or the host can give it.
    pub interrupts: u32,
    /// Lengths of SVE vectors: bit n of word w stands for (64 w + n + 1) × 16 bytes.
    #[serde(serialize_with = "as_hex_numbers")]
    pub sve_lengths: [u64; 8],
    /// Lengths of streaming vectors, in the same way.
    #[serde(serialize_with = "as_hex_numbers")]
    pub sme_lengths: [u64; 8],
    /// What the machine uses, or the host offers, that no ID register tells.
    #[serde(serialize_with = "as_hex_number")]
    pub features: u64,
}

impl FingerprintArm64 {
    /// Interrupt translation services.
    pub const ITS: u64 = 1 << 0;
    /// Stolen time (PVTIME).
    pub const STOLEN_TIME: u64 = 1 << 1;
    /// EL2 for the guest.
    pub const EL2: u64 = 1 << 2;
    /// Performance monitors.
    pub const PMU: u64 = 1 << 3;
    /// A frame for messages without a translation service.
    pub const MSI_FRAME: u64 = 1 << 4;
}

/// How the fields of an ID register compare.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fields {
    /// Sixteen numbers of four bits; those whose lowest bit is in the mask are signed, and those
    /// in the other say nothing about features.
    Numbers { signed: u64, ignored: u64 },
    /// Single bits, or runs of bits that are all set together; fields of the mask are numbers.
    Bits { numbers: u64 },
}

/// The lowest bit of the field that begins there.
const fn at(shift: u32) -> u64 {
    1 << shift
}

/// What is known of the registers that differ from sixteen unsigned numbers, where more is better.
///
/// Signed fields say with 0 that something usual is there, and with all bits set that it is not:
/// floating point, pages of 4 KiB, hardware management of the double lock.
const fn fields(id: SystemRegisterId) -> Fields {
    let (signed, ignored) = match id {
        // FP, AdvSIMD.
        SystemRegisterId::ID_AA64PFR0_EL1 => (at(16) | at(20), 0),
        // MTE_frac.
        SystemRegisterId::ID_AA64PFR1_EL1 => (at(40), 0),
        // PMUVer: all bits set is a PMU outside the architecture. DoubleLock, MTPMU.
        SystemRegisterId::ID_AA64DFR0_EL1 => (at(8) | at(36) | at(48), 0),
        // TGran64, TGran4.
        SystemRegisterId::ID_AA64MMFR0_EL1 => (at(24) | at(28), 0),
        // E2H0.
        SystemRegisterId::ID_AA64MMFR4_EL1 => (at(24), 0),
        // Cache geometry and the policy of the first level say nothing about features; IDC and DIC
        // are single bits, and a longer smallest line serves a guest that expects a shorter one.
        SystemRegisterId::CTR_EL0 => (0, at(12) | at(20) | at(24) | at(28) | at(32) | at(36)),
        SystemRegisterId::ID_AA64SMFR0_EL1 => return Fields::Bits { numbers: at(56) },
        SystemRegisterId::ID_AA64FPFR0_EL1 => return Fields::Bits { numbers: 0 },
        _ => (0, 0),
    };
    Fields::Numbers { signed, ignored }
}

/// IDC and DIC of `CTR_EL0`: the guest need not clean its caches.
const CTR_BITS: u64 = 1 << 28 | 1 << 29;

/// The value of the field at `shift`, sign-extended where the mask says so.
fn field(value: u64, shift: u32, signed: u64) -> i8 {
    let nibble = (value >> shift & 0xf).to_le_bytes()[0].cast_signed();
    let is_negative = signed & at(shift) != 0 && nibble > 7;
    if is_negative { nibble - 16 } else { nibble }
}

/// Every field of `saved` that is more than what `host` has.
fn lower_fields(id: SystemRegisterId, saved: u64, host: u64, reasons: &mut Vec<Reason>) {
    let mut lower = |shift: u8, saved: u64, host: u64| {
        reasons.push(Reason::IdRegister {
            register: id,
            shift,
            saved,
            host,
        });
    };
    let (signed, skipped) = match fields(id) {
        Fields::Numbers { signed, ignored } => (signed, ignored),
        Fields::Bits { numbers } => {
            let as_bits = !(numbers * 0xf);
            let (saved, host) = (saved & as_bits, host & as_bits);
            if saved & !host != 0 {
                lower(0, saved, host);
            }
            (0, !numbers)
        }
    };
    for shift in (0..64).step_by(4).filter(|&shift| skipped & at(shift) == 0) {
        let (was, is) = (field(saved, shift, signed), field(host, shift, signed));
        if was > is {
            let nibble = |value: u64| value >> shift & 0xf;
            let at = shift.to_le_bytes()[0];
            lower(at, nibble(saved), nibble(host));
        }
    }
    if id == SystemRegisterId::CTR_EL0 && saved & !host & CTR_BITS != 0 {
        lower(28, saved >> 28 & 3, host >> 28 & 3);
    }
}

impl Fingerprint {
    /// What of an aarch64 machine the host lacks. A side that does not say what it is cannot be
    /// trusted to be like the other.
    pub(super) fn check_arm64(&self, host: &Self, reasons: &mut Vec<Reason>) {
        let hypervisor = |side: &Option<FingerprintArm64>| {
            side.as_ref()
                .map_or(Hypervisor::UNKNOWN, |arm64| arm64.hypervisor)
        };
        let (Some(saved), Some(host)) = (&self.arm64, &host.arm64) else {
            if self.arm64.is_some() || host.arm64.is_some() {
                reasons.push(Reason::Hypervisor {
                    saved: hypervisor(&self.arm64),
                    host: hypervisor(&host.arm64),
                });
            }
            return;
        };
        if saved.hypervisor != host.hypervisor {
            reasons.push(Reason::Hypervisor {
                saved: saved.hypervisor,
                host: host.hypervisor,
            });
        }
        for register in &saved.id_registers {
            let offered = register_value(&host.id_registers, register.id).unwrap_or(0);
            lower_fields(register.id, register.value, offered, reasons);
        }
        saved.check_counter(host, reasons);
        saved.check_gic(host, reasons);
        saved.check_vectors(host, reasons);
        let missing = saved.features & !host.features;
        if missing != 0 {
            reasons.push(Reason::Features { missing });
        }
    }

    /// Whether numbers of extensions mean the same on both sides.
    pub(super) fn same_interface(&self, host: &Self) -> bool {
        let hypervisor = |side: &Self| side.arm64.as_ref().map(|arm64| arm64.hypervisor);
        hypervisor(self) == hypervisor(host)
    }
}

impl FingerprintArm64 {
    fn check_counter(&self, host: &Self, reasons: &mut Vec<Reason>) {
        // There is no tolerance: no hypervisor scales the counter, and it is exact by design.
        if self.counter_hz != 0 && self.counter_hz != host.counter_hz {
            reasons.push(Reason::CounterFrequency {
                saved_hz: self.counter_hz,
                host_hz: host.counter_hz,
            });
        }
        if self.address_bits > host.address_bits {
            reasons.push(Reason::AddressBits {
                saved: self.address_bits,
                host: host.address_bits,
            });
        }
    }

    fn check_gic(&self, host: &Self, reasons: &mut Vec<Reason>) {
        // Hosts that have a GICv3 rarely have a GICv2, which only the target can tell.
        if self.gic > host.gic || self.interrupts > host.interrupts {
            reasons.push(Reason::Gic {
                saved: self.gic,
                saved_interrupts: self.interrupts,
                host: host.gic,
                host_interrupts: host.interrupts,
            });
        }
    }

    /// A guest sees a list of lengths without gaps beyond its longest: the host must have each,
    /// and no other below it.
    fn check_vectors(&self, host: &Self, reasons: &mut Vec<Reason>) {
        for (what, saved, host) in [
            ("SVE", &self.sve_lengths, &host.sve_lengths),
            ("streaming", &self.sme_lengths, &host.sme_lengths),
        ] {
            if !can_offer(saved, host) {
                reasons.push(Reason::VectorLengths {
                    what,
                    saved: *saved,
                    host: *host,
                });
            }
        }
    }
}

/// Whether a host with the lengths `host` can show a guest exactly `saved`: a hypervisor can hide
/// long ones, but none that lies between others.
fn can_offer(saved: &[u64; 8], host: &[u64; 8]) -> bool {
    let Some(last) = saved.iter().rposition(|word| *word != 0) else {
        return true;
    };
    let pairs = saved.iter().zip(host).enumerate();
    pairs.fold(true, |holds, (word, (saved, host))| {
        let up_to_longest = match word.cmp(&last) {
            std::cmp::Ordering::Less => u64::MAX,
            std::cmp::Ordering::Equal => u64::MAX >> saved.leading_zeros(),
            std::cmp::Ordering::Greater => 0,
        };
        holds && *saved == host & up_to_longest
    })
}

#[cfg(test)]
mod tests;
