//! A GICv2, of hosts that have no GICv3.

use snapshot_format::state::{BankedRegister, GicRegister, GicV2};

use super::abi;
use super::gic::{self, Bank, Frame, GIC};
use crate::calls::Calls;
use crate::error::KvmError;

const GICD_IIDR: u32 = 0x8;

/// Interrupts of which every vCPU has its own.
const BANKED: u32 = 32;

/// Registers of the distributor for the interrupts from `first` to before `end`, in the order of
/// writing: targets before what is pending, which goes where they say.
fn of_interrupts(first: u32, end: u32) -> [Bank; 7] {
    let bits = |base: u32| (base + first / 8, base + end / 8);
    let with_clear = |base, clear: u32| {
        let (from, to) = bits(base);
        Bank::set_and_clear(from, to, clear + first / 8)
    };
    let (from, to) = bits(0x80);
    [
        with_clear(0x100, 0x180),
        Bank::words(from, to),
        Bank::words(0x800 + first, 0x800 + end),
        Bank::words(0xc00 + first / 4, 0xc00 + end / 4),
        with_clear(0x200, 0x280),
        with_clear(0x300, 0x380),
        Bank::words(0x400 + first, 0x400 + end),
    ]
}

/// Pending interrupts that software made, by the vCPU that made them.
const SOFTWARE: Bank = Bank::set_and_clear(0xf20, 0xf30, 0xf10);

/// Where the private interrupts go, which is fixed.
const FIXED_TARGETS: Bank = Bank::words(0x800, 0x820);

/// The CPU interface: control last, when everything that it lets through is in place.
const INTERFACE: [Bank; 4] = [
    Bank::words(0x4, 0xc),
    Bank::one(0x1c),
    Bank::words(0xd0, 0xe0),
    Bank::one(0x0),
];

fn banked() -> impl Iterator<Item = Bank> {
    let own = of_interrupts(0, BANKED).into_iter();
    own.filter(|bank| *bank != FIXED_TARGETS).chain([SOFTWARE])
}

fn frame(group: u32, vcpu: u32) -> Frame {
    Frame {
        group,
        cpu: vcpu.into(),
    }
}

/// How the controller was made, and nothing of its state.
pub(super) fn config(calls: &mut (dyn Calls + '_)) -> Result<GicV2, KvmError> {
    let interrupts = gic::get(calls, GIC, abi::GIC_NR_IRQS, 0)?;
    Ok(GicV2 {
        interrupts: u32::try_from(interrupts).unwrap_or(0),
        distributor_base: gic::get(calls, GIC, abi::GIC_ADDR, abi::ADDR_V2_DIST)?,
        interface_base: gic::get(calls, GIC, abi::GIC_ADDR, abi::ADDR_V2_CPU)?,
        ..GicV2::default()
    })
}

/// Reads the controller.
pub(super) fn save(calls: &mut (dyn Calls + '_), vcpu_count: u32) -> Result<GicV2, KvmError> {
    let mut saved = config(calls)?;
    let implementer = Frame::DISTRIBUTOR.get(calls, GICD_IIDR, false)?;
    saved.implementer = u32::try_from(implementer).unwrap_or(0);
    let shared = of_interrupts(BANKED, saved.interrupts);
    for bank in [Bank::one(0)].into_iter().chain(shared) {
        bank.save(calls, Frame::DISTRIBUTOR, &mut saved.distributor)?;
    }
    saved.distributor.sort_unstable_by_key(|r| r.offset);
    for vcpu in 0..vcpu_count {
        let of_vcpu = |calls: &mut _, group, banks: &mut dyn Iterator<Item = Bank>| {
            let mut registers = Vec::new();
            for bank in banks {
                bank.save(calls, frame(group, vcpu), &mut registers)?;
            }
            registers.sort_unstable_by_key(|r| r.offset);
            let registers = registers.into_iter().map(|r| BankedRegister {
                vcpu,
                offset: r.offset,
                value: u32::try_from(r.value).unwrap_or(0),
            });
            Ok::<_, KvmError>(registers)
        };
        let own = of_vcpu(calls, abi::GIC_DIST_REGS, &mut banked())?;
        saved.banked.extend(own);
        let interface = of_vcpu(calls, abi::GIC_CPU_REGS, &mut INTERFACE.into_iter())?;
        saved.interfaces.extend(interface);
    }
    Ok(saved)
}

/// Has the controller settle what it is; every vCPU was made before.
pub(super) fn finish_making(calls: &mut (dyn Calls + '_)) -> Result<(), KvmError> {
    gic::command(calls, GIC, abi::CTRL_INIT)
}

/// Writes the controller. No vCPU runs.
pub(super) fn restore(calls: &mut (dyn Calls + '_), saved: &GicV2) -> Result<(), KvmError> {
    // First: the revision decides what the groups mean.
    let implementer = saved.implementer.into();
    Frame::DISTRIBUTOR.set(calls, GICD_IIDR, implementer, false)?;
    let shared = of_interrupts(BANKED, saved.interrupts);
    for bank in [Bank::one(0)].into_iter().chain(shared) {
        bank.restore(calls, Frame::DISTRIBUTOR, &saved.distributor)?;
    }
    for (vcpu, registers) in by_vcpu(&saved.banked) {
        for bank in banked() {
            bank.restore(calls, frame(abi::GIC_DIST_REGS, vcpu), &registers)?;
        }
    }
    for (vcpu, registers) in by_vcpu(&saved.interfaces) {
        for bank in INTERFACE {
            bank.restore(calls, frame(abi::GIC_CPU_REGS, vcpu), &registers)?;
        }
    }
    Ok(())
}

/// The registers of each vCPU; a list is sorted by them.
fn by_vcpu(registers: &[BankedRegister]) -> impl Iterator<Item = (u32, Vec<GicRegister>)> + '_ {
    registers.chunk_by(|a, b| a.vcpu == b.vcpu).map(|of_vcpu| {
        let plain = of_vcpu.iter().map(|register| GicRegister {
            offset: register.offset,
            value: register.value.into(),
        });
        (of_vcpu.first().map_or(0, |r| r.vcpu), plain.collect())
    })
}
