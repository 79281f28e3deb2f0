//! The interrupt controller: opaque, as the framework gives it, and register by register.

use snapshot_format::state::{
    GicBlob, GicRegister, GicV3, GicV3Config, Hypervisor, MsiFrame, Reason, Redistributor,
    RedistributorRegion,
};

use crate::error::HvfError;
use crate::hv::{GicConfig, Hv, Register};
use crate::refusal::HvRefusal;
use crate::save::OnThread;

/// What opaque state calls itself.
pub(crate) const PRODUCER: &str = "hv_gic_state";

/// Private interrupts, which the redistributors have.
const PRIVATE: u32 = 32;

/// Registers of the distributor, by offset.
const CTLR: u32 = 0x0000;
const TYPER: u32 = 0x0004;
const IGROUPR: u32 = 0x0080;
const ISENABLER: u32 = 0x0100;
const ISPENDR: u32 = 0x0200;
const ISACTIVER: u32 = 0x0300;
const IPRIORITYR: u32 = 0x0400;
const ICFGR: u32 = 0x0c00;
const IROUTER: u32 = 0x6000;

/// From a register that sets bits to the one that clears the same.
const TO_CLEAR: u32 = 0x80;

/// Where the redistributor has the registers of its private interrupts.
const PRIVATE_FRAME: u32 = 0x1_0000;

/// How the interrupt controller of a restored machine was brought back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum GicWay {
    /// The machine has none of the framework's.
    #[default]
    None,
    /// From the framework's opaque state: everything is as it was.
    Opaque,
    /// Register by register. The level of lines is not in registers: devices assert theirs again
    /// when they are restored.
    Registers {
        /// Why not from opaque state; `None` where the snapshot has none of this framework.
        refused: Option<HvRefusal>,
    },
}

/// How many interrupts the controller has, private ones included.
pub(crate) fn interrupts(hv: &dyn Hv) -> Result<u32, HvRefusal> {
    let lines = hv.distributor(offset(TYPER))? & 0x1f;
    // ITLinesNumber; INTIDs from 1020 on are special.
    Ok((u32::try_from(lines).unwrap_or(0) + 1) * 32)
}

/// Opaque state. No vCPU runs.
pub(crate) fn save_blob(hv: &dyn Hv, os_build: &str) -> Result<GicBlob, HvRefusal> {
    Ok(GicBlob {
        hypervisor: Hypervisor::HVF,
        producer: PRODUCER.to_owned(),
        version: os_build.to_owned(),
        bytes: hv.gic_state()?,
    })
}

/// The controller by register, for a host that refuses the opaque state.
pub(crate) fn save_registers(
    hv: &dyn Hv,
    config: &GicConfig,
    redistributors: Vec<Redistributor>,
) -> Result<GicV3, HvRefusal> {
    let interrupts = interrupts(hv)?;
    let mut distributor = Vec::new();
    for at in offsets(PRIVATE, interrupts) {
        distributor.push(GicRegister {
            offset: at,
            value: hv.distributor(offset(at))?,
        });
    }
    Ok(GicV3 {
        config: GicV3Config {
            implementer: 0,
            interrupts,
            distributor_base: config.distributor,
            redistributors: vec![RedistributorRegion {
                base: config.redistributors,
                count: 0,
            }],
            msi: config.msi.map(|msi| MsiFrame {
                base: msi.base,
                first_interrupt: msi.first,
                count: msi.count,
            }),
        },
        distributor,
        redistributors,
        lines: Vec::new(),
        its: Vec::new(),
    })
}

/// The redistributor of a vCPU, on its thread.
pub(crate) fn save_redistributor(vcpu: OnThread<'_>) -> Result<Vec<GicRegister>, HvfError> {
    private_offsets()
        .map(|at| {
            let value = vcpu.get(Register::Redistributor(at))?;
            Ok(GicRegister { offset: at, value })
        })
        .collect()
}

/// Writes the distributor. Its control comes first: it says how interrupts are routed.
pub(crate) fn restore_distributor(hv: &dyn Hv, saved: &GicV3) -> Result<(), HvRefusal> {
    let interrupts = saved.config.interrupts;
    for (at, value) in writes(&saved.distributor, PRIVATE, interrupts, 0) {
        hv.set_distributor(offset(at), value)?;
    }
    Ok(())
}

/// Writes the redistributor of a vCPU, on its thread.
pub(crate) fn restore_redistributor(
    vcpu: OnThread<'_>,
    saved: &[GicRegister],
) -> Result<(), HvfError> {
    for (at, value) in writes(saved, 0, PRIVATE, PRIVATE_FRAME) {
        vcpu.set(Register::Redistributor(at), value)?;
    }
    Ok(())
}

/// What of a controller by register the framework has no register for, and holds something.
pub(crate) fn missing(saved: &GicV3) -> Vec<Reason> {
    let mut reasons = Vec::new();
    let mut check = |vcpu, what, registers: &[GicRegister], known: &[u32]| {
        for register in registers {
            if register.value != 0 && !known.contains(&register.offset) {
                reasons.push(Reason::Value {
                    vcpu,
                    what,
                    number: register.offset.into(),
                    value: register.value,
                });
            }
        }
    };
    let mut known: Vec<_> = offsets(PRIVATE, saved.config.interrupts).collect();
    known.push(TYPER);
    check(0, "distributor register", &saved.distributor, &known);
    // TYPER and PIDR2 say what it is.
    let known: Vec<_> = private_offsets().chain([0x0008, 0xffe8]).collect();
    for (vcpu, redistributor) in (0..).zip(&saved.redistributors) {
        let registers = &redistributor.registers;
        check(vcpu, "redistributor register", registers, &known);
    }
    if !saved.its.is_empty() {
        reasons.push(Reason::Shape {
            what: "interrupt translation services",
            saved: saved.its.len() as u64,
            target: 0,
        });
    }
    reasons
}

/// How a controller by register was made otherwise than the target's.
pub(crate) fn differs(saved: &GicV3Config, target: &GicConfig) -> Vec<Reason> {
    let redistributors = saved.redistributors.first();
    let msi = |base: Option<u64>| base.unwrap_or(0);
    let pairs = [
        (
            "as the address of the distributor",
            saved.distributor_base,
            target.distributor,
        ),
        (
            "as the address of the redistributors",
            redistributors.map_or(0, |region| region.base),
            target.redistributors,
        ),
        (
            "as the address of the message frame",
            msi(saved.msi.map(|msi| msi.base)),
            msi(target.msi.map(|msi| msi.base)),
        ),
    ];
    let differ = pairs
        .into_iter()
        .filter(|(_, saved, target)| saved != target);
    differ
        .map(|(what, saved, target)| Reason::Shape {
            what,
            saved,
            target,
        })
        .collect()
}

/// Offsets of the registers that hold state of the interrupts from `first` to `end`, ascending.
fn offsets(first: u32, end: u32) -> impl Iterator<Item = u32> {
    let control = (first > 0).then_some(CTLR);
    let words = move |base: u32, bits: u32| {
        (first * bits / 32..end * bits / 32).map(move |word| base + word * 4)
    };
    // INTIDs from 1020 on have no route.
    let routes = (first.max(PRIVATE)..end.min(1020)).map(|interrupt| IROUTER + interrupt * 8);
    control
        .into_iter()
        .chain(words(IGROUPR, 1))
        .chain(words(ISENABLER, 1))
        .chain(words(ISPENDR, 1))
        .chain(words(ISACTIVER, 1))
        // INTIDs from 1020 on have no priority.
        .chain(words(IPRIORITYR, 8).filter(|at| *at < IPRIORITYR + 1020))
        .chain(words(ICFGR, 2))
        .chain(routes)
}

fn private_offsets() -> impl Iterator<Item = u32> {
    offsets(0, PRIVATE).map(|at| PRIVATE_FRAME + at)
}

/// The writes that bring back registers, in order: control, groups, priorities, whether edges or
/// levels count, routes; then what is enabled, pending and active, each cleared before it is set.
fn writes(
    saved: &[GicRegister],
    first: u32,
    end: u32,
    frame: u32,
) -> impl Iterator<Item = (u32, u64)> {
    let saved: Vec<_> = saved.to_vec();
    let known: Vec<_> = offsets(first, end).map(|at| at + frame).collect();
    let mut writes = Vec::with_capacity(known.len());
    for is_set in [false, true] {
        for at in &known {
            let is_bits = (ISENABLER..IPRIORITYR).contains(&(at - frame));
            let register = saved.iter().find(|register| register.offset == *at);
            if let Some(register) = register.filter(|_| is_bits == is_set) {
                if is_set {
                    writes.push((at + TO_CLEAR, u64::from(u32::MAX)));
                }
                writes.push((*at, register.value));
            }
        }
    }
    writes.into_iter()
}

/// An offset in the distributor, which has 64 KiB.
fn offset(at: u32) -> u16 {
    u16::try_from(at).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_sorted_and_end_where_the_interrupts_do() {
        let all: Vec<_> = offsets(PRIVATE, 1024).collect();
        assert!(all.is_sorted_by(|a, b| a < b));
        assert_eq!(all.first(), Some(&CTLR));
        assert_eq!(all.last(), Some(&0x7fd8));
        assert!(all.contains(&0x7f8) && !all.contains(&0x7fc));
        assert!(!all.contains(&IGROUPR) && all.contains(&(IGROUPR + 4)));
        let private: Vec<_> = private_offsets().collect();
        assert_eq!(
            private,
            [
                0x10080, 0x10100, 0x10200, 0x10300, 0x10400, 0x10404, 0x10408, 0x1040c, 0x10410,
                0x10414, 0x10418, 0x1041c, 0x10c00, 0x10c04
            ]
        );
    }

    // spec: HVF-07
    #[test]
    fn bits_are_cleared_before_they_are_set_and_after_what_they_depend_on() {
        let saved = [
            (0x104, 5),
            (0x204, 1),
            (0x420, 0xa0),
            (0xc08, 2),
            (0x6100, 1),
        ];
        let saved = saved.map(|(offset, value)| GicRegister { offset, value });
        let order: Vec<_> = writes(&saved, PRIVATE, 64, 0).collect();
        let all = u64::from(u32::MAX);
        assert_eq!(
            order,
            [
                (0x420, 0xa0),
                (0xc08, 2),
                (0x6100, 1),
                (0x184, all),
                (0x104, 5),
                (0x284, all),
                (0x204, 1)
            ]
        );
    }
}
