//! The interrupt controllers and translation services of the fake kernel.

use std::collections::BTreeMap;
use std::io;

use snapshot_format::state::SystemRegisterId as Id;

use super::kernel::errno;
use super::vcpu::affinity;
use crate::arm64::{abi, gicv3};

/// The maker and the revision that the fake is.
pub(super) const IIDR: u64 = 0x4b00_243b;

/// Interrupts of the fake: one word of shared ones.
pub(super) const INTERRUPTS: u64 = 64;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    V2,
    V3,
    Its,
}

#[derive(Clone, Debug)]
pub(super) struct Controller {
    kind: Kind,
    pub(super) is_made: bool,
    has_revision: bool,
    pub(super) values: BTreeMap<(u32, u64), u64>,
}

impl Controller {
    pub(super) fn new(kind: Kind) -> Self {
        let addresses: &[(u64, u64)] = match kind {
            Kind::V2 => &[
                (abi::ADDR_V2_DIST, 0x800_0000),
                (abi::ADDR_V2_CPU, 0x801_0000),
            ],
            Kind::V3 => &[
                (abi::ADDR_V3_DIST, 0x800_0000),
                (abi::ADDR_V3_REDIST, 0x80a_0000),
            ],
            Kind::Its => &[(abi::ADDR_ITS, 0x808_0000)],
        };
        let values = addresses.iter().map(|(n, a)| ((abi::GIC_ADDR, *n), *a));
        let mut values: BTreeMap<_, _> = values.collect();
        values.insert((abi::GIC_NR_IRQS, 0), INTERRUPTS);
        Self {
            kind,
            is_made: false,
            has_revision: false,
            values,
        }
    }

    pub(super) fn is_v3(&self) -> bool {
        self.kind == Kind::V3
    }

    /// The name of an attribute.
    pub(super) fn name(group: u32, number: u64) -> String {
        let offset = number & 0xffff_ffff;
        match group {
            abi::GIC_ADDR => "address".to_owned(),
            abi::GIC_NR_IRQS => "interrupts".to_owned(),
            abi::GIC_CTRL => match number {
                abi::CTRL_INIT => "init",
                abi::CTRL_ITS_SAVE_TABLES => "save tables",
                abi::CTRL_ITS_RESTORE_TABLES => "restore tables",
                _ => "save pending",
            }
            .to_owned(),
            abi::GIC_DIST_REGS => format!("GICD_{}", distributor_name(offset)),
            abi::GIC_REDIST_REGS => format!("GICR_{}", redistributor_name(offset)),
            abi::GIC_CPU_REGS => format!("GICC_{offset:#x}"),
            abi::GIC_CPU_SYSREGS => Id(u16::try_from(offset & 0xffff).unwrap()).to_string(),
            abi::GIC_LEVEL_INFO => format!("lines from {offset}"),
            _ => format!("GITS_{}", its_name(offset)),
        }
    }

    /// Reads or writes an attribute; `is_busy`: a vCPU runs, or was not made yet.
    pub(super) fn access(
        &mut self,
        (group, number): (u32, u64),
        is_set: bool,
        value: &mut u64,
        is_busy: bool,
        vcpu_count: usize,
    ) -> io::Result<()> {
        match group {
            abi::GIC_ADDR if number == abi::ADDR_V3_REDIST_REGION => return errno(libc::ENOENT),
            abi::GIC_ADDR | abi::GIC_NR_IRQS => {}
            abi::GIC_CTRL if number == abi::CTRL_INIT => {
                if is_busy {
                    return errno(libc::EBUSY);
                }
                self.is_made = true;
                return Ok(());
            }
            _ if is_busy || !self.is_made => return errno(libc::EBUSY),
            abi::GIC_CTRL => return Ok(()),
            _ => {}
        }
        let by_affinity = [
            abi::GIC_REDIST_REGS,
            abi::GIC_CPU_SYSREGS,
            abi::GIC_LEVEL_INFO,
        ];
        let is_known = |n: usize| gicv3::affinity(affinity(n)) == number >> 32;
        if by_affinity.contains(&group) && !(0..vcpu_count).any(is_known) {
            return errno(libc::EINVAL);
        }
        if group == abi::GIC_CPU_SYSREGS && is_beyond_priorities(number) {
            return errno(libc::EINVAL);
        }
        if is_set {
            self.set(group, number, *value)
        } else {
            *value = self.get(group, number);
            Ok(())
        }
    }

    fn get(&self, group: u32, number: u64) -> u64 {
        if group == abi::GIC_DIST_REGS && number & 0xffff_ffff == 8 {
            return IIDR;
        }
        self.values.get(&(group, number)).copied().unwrap_or(0)
    }

    fn set(&mut self, group: u32, number: u64, value: u64) -> io::Result<()> {
        let offset = number & 0xffff_ffff;
        let old = self.get(group, number);
        let is_narrow = !matches!(group, abi::GIC_CPU_SYSREGS | abi::GIC_ITS_REGS);
        assert!(!is_narrow || value >> 32 == 0, "{number:#x} has 32 bits");
        let of_interrupts = match group {
            abi::GIC_DIST_REGS => offset,
            abi::GIC_REDIST_REGS if offset >= 0x1_0000 => offset - 0x1_0000,
            _ => u64::MAX,
        };
        let new = match of_interrupts {
            // Another maker, or a revision that was never made.
            8 if value & 0xfff != IIDR & 0xfff || value >> 12 & 0xf > 3 => {
                return errno(libc::EINVAL);
            }
            8 => {
                self.has_revision = true;
                return Ok(());
            }
            // The first revision had no groups.
            0x80..0x100 if group == abi::GIC_DIST_REGS && !self.has_revision => return Ok(()),
            // Writing sets bits, or clears those of the register before.
            0x100..0x180 | 0x300..0x380 | 0xf20..0xf30 => old | value,
            0x180..0x200 | 0x380..0x400 => {
                self.clear(group, number - 0x80, value);
                return Ok(());
            }
            0xf10..0xf20 => {
                self.clear(group, number + 0x10, value);
                return Ok(());
            }
            // Pending bits are as written, and those that clear are ignored.
            0x280..0x300 => return Ok(()),
            _ => value,
        };
        match (group, offset) {
            // Once messages are enabled, their tables are fixed.
            (abi::GIC_REDIST_REGS, 0x70..0x80) if self.is_enabled(group, number - offset) => {
                return Ok(());
            }
            (abi::GIC_ITS_REGS, 0x80..) if self.is_enabled(group, 0) => return Ok(()),
            // A new command queue is empty.
            (abi::GIC_ITS_REGS, 0x80) => {
                self.values.insert((group, 0x88), 0);
                self.values.insert((group, 0x90), 0);
            }
            (abi::GIC_CPU_SYSREGS, _) => {
                let is_sre = number & 0xffff == u64::from(Id::ICC_SRE_EL1.0);
                if is_sre && value != 7 {
                    return errno(libc::EINVAL);
                }
            }
            _ => {}
        }
        self.values.insert((group, number), new);
        Ok(())
    }

    fn is_enabled(&self, group: u32, control: u64) -> bool {
        let control = self.values.get(&(group, control));
        control.is_some_and(|control| control & 1 != 0)
    }

    fn clear(&mut self, group: u32, number: u64, bits: u64) {
        let value = self.values.entry((group, number)).or_default();
        *value &= !bits;
    }

    /// Fills every register with values that tell them apart, as a guest might.
    pub(super) fn fill(&mut self, vcpu_count: usize) {
        match self.kind {
            Kind::Its => self.fill_its(),
            Kind::V2 => (0..vcpu_count).for_each(|cpu| self.fill_v2(cpu)),
            Kind::V3 => {
                self.put(abi::GIC_DIST_REGS, 0, (0x6100..0x6200).step_by(4).collect());
                (0..vcpu_count).for_each(|cpu| self.fill_v3(cpu));
                let first = gicv3::affinity(affinity(0)) << 32;
                self.values
                    .insert((abi::GIC_LEVEL_INFO, first | 32), 0x8001);
            }
        }
        if self.kind != Kind::Its {
            let shared = [vec![0], of_interrupts(32, INTERRUPTS)].concat();
            self.put(abi::GIC_DIST_REGS, 0, shared);
        }
    }

    fn fill_its(&mut self) {
        let offsets = vec![0x4, 0x80, 0x88, 0x90, 0x100, 0x108];
        self.put(abi::GIC_ITS_REGS, 0, offsets);
        // It serves.
        self.values.insert((abi::GIC_ITS_REGS, 0), 1);
    }

    fn fill_v2(&mut self, cpu: usize) {
        let number = u64::try_from(cpu).unwrap() << 32;
        let software = (0xf20..0xf30).step_by(4).collect();
        let own = [of_interrupts(0, 32), software].concat();
        self.put(abi::GIC_DIST_REGS, number, own);
        let interface = vec![0x0, 0x4, 0x8, 0x1c, 0xd0, 0xdc];
        self.put(abi::GIC_CPU_REGS, number, interface);
    }

    fn fill_v3(&mut self, cpu: usize) {
        let by_affinity = gicv3::affinity(affinity(cpu)) << 32;
        let private = of_interrupts(0, 32).iter().map(|n| 0x1_0000 + n).collect();
        let own = [private, vec![0x14, 0x70, 0x74, 0x78, 0x7c]].concat();
        self.put(abi::GIC_REDIST_REGS, by_affinity, own);
        // Messages are enabled.
        self.values.insert((abi::GIC_REDIST_REGS, by_affinity), 1);
        self.put(abi::GIC_LEVEL_INFO, by_affinity, vec![0]);
        let icc = [
            Id::ICC_PMR_EL1,
            Id::ICC_BPR1_EL1,
            Id::ICC_IGRPEN1_EL1,
            Id::ICC_AP1R0_EL1,
        ];
        let icc = icc.map(|id| u64::from(id.0)).to_vec();
        self.put(abi::GIC_CPU_SYSREGS, by_affinity, icc);
        for (id, value) in [(Id::ICC_SRE_EL1, 7), (Id::ICC_CTLR_EL1, 4 << 8)] {
            let number = by_affinity | u64::from(id.0);
            self.values.insert((abi::GIC_CPU_SYSREGS, number), value);
        }
    }

    fn put(&mut self, group: u32, above: u64, offsets: Vec<u64>) {
        for offset in offsets {
            let number = above | offset;
            let mixed = (number ^ number >> 29 ^ 0x55).wrapping_mul(0x9e37_79b1);
            self.values
                .insert((group, number), mixed & 0x7fff_ffff | 0x10);
        }
    }
}

/// Registers of the interrupts from `first` to before `end`.
fn of_interrupts(first: u64, end: u64) -> Vec<u64> {
    let words = |from: u64, to: u64| (from..to).step_by(4);
    let bits = [0x80, 0x100, 0x200, 0x300];
    let bits = bits
        .into_iter()
        .flat_map(|base| words(base + first / 8, base + end / 8));
    bits.chain(words(0x400 + first, 0x400 + end))
        .chain(words(0xc00 + first / 4, 0xc00 + end / 4))
        .collect()
}

/// Five bits of priority have one register of active priorities a group.
fn is_beyond_priorities(number: u64) -> bool {
    let beyond = [
        Id::ICC_AP0R1_EL1,
        Id::ICC_AP0R2_EL1,
        Id::ICC_AP0R3_EL1,
        Id::ICC_AP1R1_EL1,
        Id::ICC_AP1R2_EL1,
        Id::ICC_AP1R3_EL1,
    ];
    beyond.iter().any(|id| u64::from(id.0) == number & 0xffff)
}

fn distributor_name(offset: u64) -> &'static str {
    match offset {
        0x0 => "CTLR",
        0x8 => "IIDR",
        0x10 => "STATUSR",
        0x80..0x100 => "IGROUPR",
        0x100..0x180 => "ISENABLER",
        0x180..0x200 => "ICENABLER",
        0x200..0x280 => "ISPENDR",
        0x280..0x300 => "ICPENDR",
        0x300..0x380 => "ISACTIVER",
        0x380..0x400 => "ICACTIVER",
        0x400..0x800 => "IPRIORITYR",
        0x800..0xc00 => "ITARGETSR",
        0xc00..0xd00 => "ICFGR",
        0xf10..0xf20 => "CPENDSGIR",
        0xf20..0xf30 => "SPENDSGIR",
        0x6000..0x8000 => "IROUTER",
        _ => "unknown",
    }
}

fn redistributor_name(offset: u64) -> &'static str {
    match offset {
        0x0 => "CTLR",
        0x10 => "STATUSR",
        0x14 => "WAKER",
        0x70 | 0x74 => "PROPBASER",
        0x78 | 0x7c => "PENDBASER",
        0x1_0000.. => distributor_name(offset - 0x1_0000),
        _ => "unknown",
    }
}

fn its_name(offset: u64) -> &'static str {
    match offset {
        0x0 => "CTLR",
        0x4 => "IIDR",
        0x80 => "CBASER",
        0x88 => "CWRITER",
        0x90 => "CREADR",
        0x100..0x140 => "BASER",
        _ => "unknown",
    }
}
