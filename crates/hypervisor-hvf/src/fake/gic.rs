//! The interrupt controller of the fake.

use std::collections::{BTreeMap, BTreeSet};

use crate::hv::GicConfig;
use crate::refusal::{HvCode, HvRefusal};

/// Shared interrupts end before this number.
const INTERRUPTS: u32 = 128;

/// Private interrupts, which the redistributors have.
const PRIVATE: u32 = 32;

/// What opaque state starts with, before the build of the system.
const MAGIC: &[u8] = b"FAKEGIC1";

/// The distributor, and what is the same for all vCPUs.
pub(super) struct FakeGic {
    config: GicConfig,
    pub(super) distributor: Bank,
    /// Shared interrupts whose line is high.
    pub(super) lines: BTreeSet<u32>,
    /// Whether opaque state was set: the affinities of the vCPUs are final.
    pub(super) is_restored: bool,
}

/// Registers by offset, and the meaning of those that set and clear.
#[derive(Clone)]
pub(super) struct Bank {
    kind: BankKind,
    values: BTreeMap<u32, u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum BankKind {
    Distributor,
    Redistributor,
}

impl Bank {
    fn distributor() -> Self {
        Self {
            kind: BankKind::Distributor,
            values: BTreeMap::new(),
        }
    }

    pub(super) fn redistributor() -> Self {
        Self {
            kind: BankKind::Redistributor,
            values: BTreeMap::new(),
        }
    }

    pub(super) fn read(&self, call: &'static str, offset: u32) -> Result<u64, HvRefusal> {
        // Interrupts in blocks of 32, less one; no priority beyond 5 bits, no extended range.
        if (self.kind, offset) == (BankKind::Distributor, 0x0004) {
            return Ok(u64::from(INTERRUPTS / 32 - 1));
        }
        let (at, _) = self
            .place(offset)
            .ok_or_else(|| HvCode::BadArgument.to(call))?;
        Ok(self.values.get(&at).copied().unwrap_or(0))
    }

    pub(super) fn write(
        &mut self,
        call: &'static str,
        offset: u32,
        value: u64,
    ) -> Result<(), HvRefusal> {
        let place = self.place(offset).filter(|_| !self.is_read_only(offset));
        let (at, effect) = place.ok_or_else(|| HvCode::BadArgument.to(call))?;
        let old = self.values.entry(at).or_default();
        *old = match effect {
            Effect::Store => value,
            Effect::Set => *old | value,
            Effect::Clear => *old & !value,
        };
        Ok(())
    }

    fn is_read_only(&self, offset: u32) -> bool {
        match self.kind {
            BankKind::Distributor => matches!(offset, 0x0004 | 0xffe8),
            BankKind::Redistributor => matches!(offset, 0x0008 | 0xffe8),
        }
    }

    /// Where the value of a register is kept, and what writing it does.
    fn place(&self, offset: u32) -> Option<(u32, Effect)> {
        // The frame of the private interrupts is laid out as the distributor.
        let (frame, at) = match self.kind {
            BankKind::Distributor => (0, offset),
            BankKind::Redistributor if offset >= 0x1_0000 => (0x1_0000, offset - 0x1_0000),
            BankKind::Redistributor => {
                return matches!(offset, 0x0008 | 0xffe8).then_some((offset, Effect::Store));
            }
        };
        let (first, last) = match self.kind {
            BankKind::Distributor => (0, INTERRUPTS),
            BankKind::Redistributor => (0, PRIVATE),
        };
        let words = |bits: u32| (last - first) * bits / 8;
        let (base, effect) = match at {
            0x0000 | 0x0004 | 0xffe8 if frame == 0 => (at, Effect::Store),
            0x080..=0x0ff if at - 0x080 < words(1) => (at, Effect::Store),
            0x100..=0x17f if at - 0x100 < words(1) => (at, Effect::Set),
            0x180..=0x1ff if at - 0x180 < words(1) => (at - 0x80, Effect::Clear),
            0x200..=0x27f if at - 0x200 < words(1) => (at, Effect::Set),
            0x280..=0x2ff if at - 0x280 < words(1) => (at - 0x80, Effect::Clear),
            0x300..=0x37f if at - 0x300 < words(1) => (at, Effect::Set),
            0x380..=0x3ff if at - 0x380 < words(1) => (at - 0x80, Effect::Clear),
            0x400..=0x7fb if at - 0x400 < words(8) => (at, Effect::Store),
            0xc00..=0xcff if at - 0xc00 < words(2) => (at, Effect::Store),
            0x6100..=0x7fd8 if frame == 0 && (at - 0x6000) / 8 < INTERRUPTS => (at, Effect::Store),
            _ => return None,
        };
        base.is_multiple_of(4).then_some((base + frame, effect))
    }

    fn put(&self, bytes: &mut Vec<u8>) {
        put_len(bytes, self.values.len());
        for (offset, value) in &self.values {
            bytes.extend(offset.to_le_bytes());
            bytes.extend(value.to_le_bytes());
        }
    }

    fn take(kind: BankKind, bytes: &mut &[u8]) -> Option<Self> {
        let count = take_u32(bytes)?;
        let mut values = BTreeMap::new();
        for _ in 0..count {
            values.insert(take_u32(bytes)?, take_u64(bytes)?);
        }
        Some(Self { kind, values })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Effect {
    Store,
    Set,
    Clear,
}

impl FakeGic {
    pub(super) fn new(config: GicConfig) -> Self {
        Self {
            config,
            distributor: Bank::distributor(),
            lines: BTreeSet::new(),
            is_restored: false,
        }
    }

    pub(super) fn set_line(&mut self, interrupt: u32, level: bool) -> Result<(), HvRefusal> {
        if !(PRIVATE..INTERRUPTS).contains(&interrupt) {
            return Err(HvCode::BadArgument.to("hv_gic_set_spi"));
        }
        if level {
            self.lines.insert(interrupt);
        } else {
            self.lines.remove(&interrupt);
        }
        Ok(())
    }

    /// Opaque state: of one build of the system, one configuration, and these vCPUs.
    pub(super) fn to_bytes(
        &self,
        build: &str,
        affinities: &[u64],
        redistributors: &[Bank],
    ) -> Vec<u8> {
        let mut bytes = self.header(build, affinities);
        self.distributor.put(&mut bytes);
        put_len(&mut bytes, self.lines.len());
        for line in &self.lines {
            bytes.extend(line.to_le_bytes());
        }
        for redistributor in redistributors {
            redistributor.put(&mut bytes);
        }
        bytes
    }

    /// Takes opaque state, and gives the redistributors in the order of the vCPUs.
    pub(super) fn take_bytes(
        &mut self,
        build: &str,
        affinities: &[u64],
        bytes: &[u8],
    ) -> Result<Vec<Bank>, HvRefusal> {
        let refused = || HvCode::Error.to("hv_gic_set_state");
        let header = self.header(build, affinities);
        let mut rest = bytes.strip_prefix(&*header).ok_or_else(refused)?;
        let taken = (|| {
            let distributor = Bank::take(BankKind::Distributor, &mut rest)?;
            let lines = take_u32(&mut rest)?;
            let lines = (0..lines)
                .map(|_| take_u32(&mut rest))
                .collect::<Option<_>>()?;
            let redistributors = affinities
                .iter()
                .map(|_| Bank::take(BankKind::Redistributor, &mut rest))
                .collect::<Option<Vec<_>>>()?;
            rest.is_empty()
                .then_some((distributor, lines, redistributors))
        })();
        let (distributor, lines, redistributors) = taken.ok_or_else(refused)?;
        self.distributor = distributor;
        self.lines = lines;
        self.is_restored = true;
        Ok(redistributors)
    }

    fn header(&self, build: &str, affinities: &[u64]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        put_len(&mut bytes, build.len());
        bytes.extend(build.bytes());
        bytes.extend(self.config.distributor.to_le_bytes());
        bytes.extend(self.config.redistributors.to_le_bytes());
        put_len(&mut bytes, affinities.len());
        for affinity in affinities {
            bytes.extend(affinity.to_le_bytes());
        }
        bytes
    }
}

fn put_len(bytes: &mut Vec<u8>, len: usize) {
    bytes.extend(u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
}

fn take_u32(bytes: &mut &[u8]) -> Option<u32> {
    let (head, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u32::from_le_bytes(*head))
}

fn take_u64(bytes: &mut &[u8]) -> Option<u64> {
    let (head, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u64::from_le_bytes(*head))
}
