//! Sections: typed payloads, and the offers that a restore takes them from.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::codec::Codec;
use crate::error::{DecodeError, Part};

/// What a section holds.
///
/// `0x001..=0x0ff` are the sections of this format's own files, `0x100..=0x1ff` machine state,
/// and numbers from [`SectionKind::CALLER`] on belong to the VMM that embeds the engine.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SectionKind(pub u32);

/// A section in memory: what a capture hands to a sink, and what a file gives back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SectionPayload {
    /// What it holds.
    pub kind: SectionKind,
    /// Which of that kind: the number of a vCPU, for one.
    pub instance: u32,
    /// The version of the payload.
    pub version: u16,
    /// How `bytes` were made.
    pub codec: Codec,
    /// Whether a reader that does not understand it must refuse the file.
    pub critical: bool,
    /// The payload.
    pub bytes: Vec<u8>,
}

/// A value that travels as one section.
pub trait StatePayload: Sized {
    /// What the section holds.
    const KIND: SectionKind;
    /// The version that [`encode`](Self::encode) writes.
    const VERSION: u16;
    /// How the payload is made.
    const CODEC: Codec = Codec::Bitcode;
    /// Whether a reader that does not understand it must refuse the file.
    const CRITICAL: bool = true;

    /// The payload.
    fn encode(&self) -> Vec<u8>;

    /// The value of a payload of `version`, checked by every rule of its kind.
    ///
    /// Offsets in errors count from the start of the payload.
    fn decode(version: u16, bytes: &[u8]) -> Result<Self, DecodeError>;
}

/// The sections of a file, to be taken one by one.
///
/// Nothing is dropped silently: [`finish`](Self::finish) refuses a critical section that nobody
/// took.
#[derive(Clone, Debug, Default)]
pub struct SectionOffers {
    offers: Vec<Offer>,
}

#[derive(Clone, Debug)]
struct Offer {
    section: SectionPayload,
    offset: u64,
}

impl SectionKind {
    /// What a snapshot is: `manifest.vms`.
    pub const MANIFEST: Self = Self(0x001);
    /// The VMM's configuration of the machine, as opaque bytes: `manifest.vms`.
    pub const VM_CONFIG: Self = Self(0x002);
    /// Where the bytes of a snapshot lie: `place.<n>.vms`.
    pub const PLACEMENT: Self = Self(0x010);
    /// The flattened map's table of leaves: `place.<n>.vms`.
    pub const FLATTENED_MAP: Self = Self(0x011);
    /// The root of a page map: `memory.map`.
    pub const MAP_ROOT: Self = Self(0x020);
    /// The leaves of a page map: `memory.map`.
    pub const MAP_LEAVES: Self = Self(0x021);
    /// Which pages a guest touches first: `working-set.<n>`.
    pub const WORKING_SET: Self = Self(0x040);
    /// The bytes of these pages: `working-set.<n>`.
    pub const WORKING_SET_DATA: Self = Self(0x041);
    /// The identity of a store: `store.vms`.
    pub const STORE: Self = Self(0x030);
    /// Registers of one x86-64 vCPU; one instance a vCPU.
    pub const VCPU_X86_64: Self = Self(0x100);
    /// Registers of one Arm vCPU; one instance a vCPU.
    pub const VCPU_AARCH64: Self = Self(0x101);
    /// What an x86-64 machine has once.
    pub const VM_X86_64: Self = Self(0x110);
    /// What an Arm machine has once.
    pub const VM_AARCH64: Self = Self(0x111);
    /// Clocks.
    pub const CLOCK: Self = Self(0x120);
    /// PIC, I/O APIC and PIT.
    pub const IRQCHIP_X86_64: Self = Self(0x130);
    /// An Arm generic interrupt controller of version 3, by register.
    pub const GIC: Self = Self(0x131);
    /// An Arm generic interrupt controller of version 2, by register.
    pub const GIC_V2: Self = Self(0x132);
    /// An Arm generic interrupt controller, as bytes of its hypervisor.
    pub const GIC_BLOB: Self = Self(0x133);
    /// A device of the VMM; one instance a device.
    pub const DEVICE: Self = Self(0x140);
    /// What a host must have to run the guest: `manifest.vms` and `state.vms`.
    pub const FINGERPRINT: Self = Self(0x1f0);
    /// The first number that belongs to the VMM.
    pub const CALLER: Self = Self(0x8000_0000);

    /// A short name; `None` for a number that this build does not know.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::MANIFEST => "manifest",
            Self::VM_CONFIG => "vm-config",
            Self::PLACEMENT => "placement",
            Self::FLATTENED_MAP => "flattened-map",
            Self::MAP_ROOT => "map-root",
            Self::MAP_LEAVES => "map-leaves",
            Self::STORE => "store",
            Self::WORKING_SET => "working-set",
            Self::WORKING_SET_DATA => "working-set-data",
            Self::VCPU_X86_64 => "vcpu-x86_64",
            Self::VCPU_AARCH64 => "vcpu-aarch64",
            Self::VM_X86_64 => "vm-x86_64",
            Self::VM_AARCH64 => "vm-aarch64",
            Self::CLOCK => "clock",
            Self::IRQCHIP_X86_64 => "irqchip-x86_64",
            Self::GIC => "gic",
            Self::GIC_V2 => "gic-v2",
            Self::GIC_BLOB => "gic-blob",
            Self::DEVICE => "device",
            Self::FINGERPRINT => "fingerprint",
            _ => return None,
        })
    }

    /// This kind's section `instance`, to say where an error is.
    #[must_use]
    pub const fn part(self, instance: u32) -> Part {
        Part::Section {
            kind: self,
            instance,
        }
    }
}

impl SectionPayload {
    /// The section that carries `value`.
    #[must_use]
    pub fn of<T: StatePayload>(instance: u32, value: &T) -> Self {
        Self {
            kind: T::KIND,
            instance,
            version: T::VERSION,
            codec: T::CODEC,
            critical: T::CRITICAL,
            bytes: value.encode(),
        }
    }

    /// A section of bytes that mean themselves.
    #[must_use]
    pub const fn raw(kind: SectionKind, instance: u32, version: u16, bytes: Vec<u8>) -> Self {
        Self {
            kind,
            instance,
            version,
            codec: Codec::Raw,
            critical: true,
            bytes,
        }
    }

    /// Whether a reader may ignore the section.
    #[must_use]
    pub const fn with_critical(mut self, critical: bool) -> Self {
        self.critical = critical;
        self
    }

    /// The value that the section carries.
    pub fn value<T: StatePayload>(&self) -> Result<T, DecodeError> {
        let part = self.kind.part(self.instance);
        if self.kind != T::KIND {
            return Err(DecodeError::Mismatch {
                part,
                offset: 0,
                what: "the kind of the section",
                expected: T::KIND.to_string(),
                found: self.kind.to_string(),
            });
        }
        if self.codec != T::CODEC {
            return Err(DecodeError::NotUnderstood {
                part,
                offset: 0,
                why: "its codec is not the one of its kind",
            });
        }
        if self.version > T::VERSION {
            return Err(DecodeError::Version {
                part,
                offset: 0,
                found: self.version,
                reads: T::VERSION,
            });
        }
        T::decode(self.version, &self.bytes)
    }
}

impl SectionOffers {
    /// Offers sections that never were in a file: offsets in errors count from each section.
    #[must_use]
    pub fn new(sections: Vec<SectionPayload>) -> Self {
        let offers = sections.into_iter();
        Self {
            offers: offers.map(|section| Offer { section, offset: 0 }).collect(),
        }
    }

    /// Adds a section that starts at `offset` of its file.
    pub(crate) fn push(&mut self, section: SectionPayload, offset: u64) {
        self.offers.push(Offer { section, offset });
    }

    /// Kind and instance of every section that nobody has taken yet, in the order of the file.
    pub fn remaining(&self) -> impl Iterator<Item = (SectionKind, u32)> + '_ {
        let sections = self.offers.iter().map(|offer| &offer.section);
        sections.map(|section| (section.kind, section.instance))
    }

    /// Every section that nobody has taken yet, in the order of the file.
    pub fn payloads(&self) -> impl Iterator<Item = &SectionPayload> + '_ {
        self.offers.iter().map(|offer| &offer.section)
    }

    /// Takes the section of `T` with this instance; it must be there.
    pub fn take<T: StatePayload>(&mut self, instance: u32) -> Result<T, DecodeError> {
        self.take_optional(instance)?
            .ok_or_else(|| DecodeError::Missing {
                part: T::KIND.part(instance),
            })
    }

    /// Takes the section of `T` with this instance, if it is there.
    pub fn take_optional<T: StatePayload>(
        &mut self,
        instance: u32,
    ) -> Result<Option<T>, DecodeError> {
        self.remove(T::KIND, instance).map(Offer::value).transpose()
    }

    /// Takes every section of `T`, by ascending instance.
    pub fn take_all<T: StatePayload>(&mut self) -> Result<Vec<(u32, T)>, DecodeError> {
        let (mut taken, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.offers)
            .into_iter()
            .partition(|offer| offer.section.kind == T::KIND);
        self.offers = rest;
        taken.sort_by_key(|offer| offer.section.instance);
        let values = taken.into_iter();
        values
            .map(|offer| Ok((offer.section.instance, offer.value()?)))
            .collect()
    }

    /// Takes a section as it is, if it is there.
    pub fn take_payload(&mut self, kind: SectionKind, instance: u32) -> Option<SectionPayload> {
        self.remove(kind, instance).map(|offer| offer.section)
    }

    /// Kind and instance of every critical section that nobody has taken yet.
    pub fn left_over(&self) -> impl Iterator<Item = (SectionKind, u32)> + '_ {
        let critical = self.offers.iter().filter(|offer| offer.section.critical);
        critical.map(|offer| (offer.section.kind, offer.section.instance))
    }

    /// Ends the taking: a critical section that is left over is an error.
    pub fn finish(self) -> Result<(), DecodeError> {
        match self.offers.iter().find(|offer| offer.section.critical) {
            None => Ok(()),
            Some(left) => Err(DecodeError::NotUnderstood {
                part: left.section.kind.part(left.section.instance),
                offset: left.offset,
                why: "nobody took it",
            }),
        }
    }

    fn remove(&mut self, kind: SectionKind, instance: u32) -> Option<Offer> {
        let mut sections = self.offers.iter().map(|offer| &offer.section);
        let index = sections.position(|s| s.kind == kind && s.instance == instance)?;
        Some(self.offers.remove(index))
    }
}

impl Offer {
    fn value<T: StatePayload>(self) -> Result<T, DecodeError> {
        let value = self.section.value();
        value.map_err(|error| error.shifted(self.offset))
    }
}

impl fmt::Display for SectionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{:#x}", self.0),
        }
    }
}

impl fmt::Debug for SectionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SectionKind({self})")
    }
}

impl Serialize for SectionKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
