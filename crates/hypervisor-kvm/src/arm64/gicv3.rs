//! A GICv3 and its translation services: what is read, and in which order it is written.

use snapshot_format::state::{
    GicRegister, GicV3, GicV3Config, Its, Redistributor, RedistributorRegion, SystemRegister,
    SystemRegisterId,
};

use super::abi;
use super::gic::{self, Bank, Frame, GIC};
use crate::calls::{Calls, Target};
use crate::error::KvmError;

const GICD_IIDR: u32 = 0x8;

/// Bits of the enable and of the number of priorities in `ICC_CTLR_EL1`: 5, 6 or 7 bits, less one.
const PRIORITY_BITS_SHIFT: u32 = 8;

/// The first shared interrupt, and one past the last that has a route.
const FIRST_SHARED: u32 = 32;
const END_OF_ROUTED: u32 = 1020;

/// The distributor's registers for so many interrupts, in the order of writing.
///
/// Control first, as the kernel keeps interrupts off the vCPUs as long as these stand still;
/// groups and routes before what is pending, which goes where they say.
fn distributor(interrupts: u32) -> [Bank; 9] {
    let bits = |base: u32| (base + 4, base + interrupts / 8);
    let of_bits = |base| {
        let (first, end) = bits(base);
        Bank::words(first, end)
    };
    let with_clear = |base, clear: u32| {
        let (first, end) = bits(base);
        Bank::set_and_clear(first, end, clear + 4)
    };
    let routed = interrupts.min(END_OF_ROUTED);
    [
        Bank::one(0x0),
        Bank::one(0x10),
        with_clear(0x100, 0x180),
        of_bits(0x80),
        Bank::wide(0x6000 + 8 * FIRST_SHARED, 0x6000 + 8 * routed),
        Bank::words(0xc00 + FIRST_SHARED / 4, 0xc00 + interrupts / 4),
        with_clear(0x200, 0x280),
        with_clear(0x300, 0x380),
        Bank::words(0x400 + FIRST_SHARED, 0x400 + interrupts),
    ]
}

/// A redistributor's registers, in the order of writing. `PROPBASER` and `PENDBASER` come before the
/// control that turns message interrupts on, after which the kernel ignores them.
const REDISTRIBUTOR: [Bank; 11] = [
    Bank::one(0x10),
    Bank::one(0x14),
    Bank::wide(0x70, 0x78),
    Bank::wide(0x78, 0x80),
    Bank::one(0x0),
    Bank::set_and_clear(0x1_0100, 0x1_0104, 0x1_0180),
    Bank::one(0x1_0080),
    Bank::words(0x1_0c00, 0x1_0c08),
    Bank::set_and_clear(0x1_0200, 0x1_0204, 0x1_0280),
    Bank::set_and_clear(0x1_0300, 0x1_0304, 0x1_0380),
    Bank::words(0x1_0400, 0x1_0420),
];

const ITS_CTLR: u32 = 0x0;
const ITS_IIDR: u32 = 0x4;
const ITS_CBASER: u32 = 0x80;
const ITS_CWRITER: u32 = 0x88;
const ITS_CREADR: u32 = 0x90;

/// A translation service's registers, in the order of writing: the command queue's base resets its
/// pointers, and the control is written after the tables were read.
const ITS: [u32; 12] = [
    ITS_CBASER,
    ITS_CREADR,
    ITS_CWRITER,
    0x100,
    0x108,
    0x110,
    0x118,
    0x120,
    0x128,
    0x130,
    0x138,
    ITS_IIDR,
];

/// The affinity as the kernel's attributes have it: Aff3 to Aff0 in 32 bits.
pub(super) fn affinity(mpidr: u64) -> u64 {
    mpidr >> 8 & 0xff00_0000 | mpidr & 0x00ff_ffff
}

fn redistributor_frame(mpidr: u64) -> Frame {
    Frame {
        group: abi::GIC_REDIST_REGS,
        cpu: affinity(mpidr),
    }
}

/// Reads the registers of a vCPU's interface to the controller.
pub(super) fn save_icc(
    calls: &mut (dyn Calls + '_),
    mpidr: u64,
) -> Result<Vec<SystemRegister>, KvmError> {
    let mut get = |id: SystemRegisterId| {
        let value = gic::get(calls, GIC, abi::GIC_CPU_SYSREGS, icc_attribute(mpidr, id))?;
        Ok::<_, KvmError>(SystemRegister { id, value })
    };
    let control = get(SystemRegisterId::ICC_CTLR_EL1)?;
    let mut saved = vec![control];
    for id in icc_order(control.value).filter(|id| *id != control.id) {
        saved.push(get(id)?);
    }
    saved.sort_unstable_by_key(|register| register.id);
    Ok(saved)
}

/// The registers in the order of writing. The first turns the others on; how many active-priority
/// registers there are, and no more may be named, says `control`.
fn icc_order(control: u64) -> impl Iterator<Item = SystemRegisterId> {
    use SystemRegisterId as Id;
    let active = match (control >> PRIORITY_BITS_SHIFT & 7) + 1 {
        7.. => 4,
        6 => 2,
        _ => 1,
    };
    let group_0 = [
        Id::ICC_AP0R0_EL1,
        Id::ICC_AP0R1_EL1,
        Id::ICC_AP0R2_EL1,
        Id::ICC_AP0R3_EL1,
    ];
    let group_1 = [
        Id::ICC_AP1R0_EL1,
        Id::ICC_AP1R1_EL1,
        Id::ICC_AP1R2_EL1,
        Id::ICC_AP1R3_EL1,
    ];
    let fixed = [
        Id::ICC_SRE_EL1,
        Id::ICC_CTLR_EL1,
        Id::ICC_IGRPEN0_EL1,
        Id::ICC_IGRPEN1_EL1,
        Id::ICC_PMR_EL1,
        Id::ICC_BPR0_EL1,
        Id::ICC_BPR1_EL1,
    ];
    let active = group_0
        .into_iter()
        .take(active)
        .chain(group_1.into_iter().take(active));
    fixed.into_iter().chain(active)
}

fn icc_attribute(mpidr: u64, id: SystemRegisterId) -> u64 {
    affinity(mpidr) << 32 | u64::from(id.0)
}

/// Writes a vCPU's interface. Registers that KVM has none of are left out.
pub(super) fn restore_icc(
    calls: &mut (dyn Calls + '_),
    mpidr: u64,
    saved: &[SystemRegister],
) -> Result<(), KvmError> {
    let value = |id| snapshot_format::state::register_value(saved, id);
    let control = value(SystemRegisterId::ICC_CTLR_EL1).unwrap_or(0);
    for id in icc_order(control) {
        if let Some(value) = value(id) {
            let attribute = icc_attribute(mpidr, id);
            gic::set(calls, GIC, abi::GIC_CPU_SYSREGS, attribute, value)?;
        }
    }
    Ok(())
}

/// How the controller was made.
pub(super) fn config(calls: &mut (dyn Calls + '_)) -> Result<GicV3Config, KvmError> {
    let interrupts = gic::get(calls, GIC, abi::GIC_NR_IRQS, 0)?;
    Ok(GicV3Config {
        implementer: 0,
        interrupts: u32::try_from(interrupts).unwrap_or(0),
        distributor_base: gic::get(calls, GIC, abi::GIC_ADDR, abi::ADDR_V3_DIST)?,
        redistributors: regions(calls)?,
        msi: None,
    })
}

/// The regions of redistributors: as many as were given, or the one of the older interface.
fn regions(calls: &mut (dyn Calls + '_)) -> Result<Vec<RedistributorRegion>, KvmError> {
    let mut regions = Vec::new();
    for index in 0..snapshot_format::limits::MAX_REDISTRIBUTOR_REGIONS as u64 {
        let number = abi::ADDR_V3_REDIST_REGION;
        match gic::get_into(calls, GIC, abi::GIC_ADDR, number, index) {
            // Base in bits 51:16, count in 63:52.
            Ok(found) => regions.push(RedistributorRegion {
                base: found & 0x000f_ffff_ffff_0000,
                count: u32::try_from(found >> 52).unwrap_or(0),
            }),
            // Past the last, or a controller that was given one region of the older kind.
            Err(KvmError::Ioctl { source, .. })
                if matches!(
                    source.raw_os_error(),
                    Some(libc::ENOENT | libc::EINVAL | libc::ENODEV | libc::ENXIO)
                ) =>
            {
                break;
            }
            Err(error) => return Err(error),
        }
    }
    if regions.is_empty() {
        let base = gic::get(calls, GIC, abi::GIC_ADDR, abi::ADDR_V3_REDIST)?;
        regions.push(RedistributorRegion { base, count: 0 });
    }
    Ok(regions)
}

/// Reads the controller and its services. Everything else was read before.
///
/// What they keep in guest memory is written there first, so that it is with the memory.
pub(super) fn save(
    calls: &mut (dyn Calls + '_),
    mpidrs: &[u64],
    its_count: usize,
) -> Result<GicV3, KvmError> {
    gic::command(calls, GIC, abi::CTRL_SAVE_PENDING_TABLES)?;
    for n in 0..its_count {
        gic::command(calls, gic::its(n), abi::CTRL_ITS_SAVE_TABLES)?;
    }
    let mut saved = GicV3 {
        config: config(calls)?,
        ..GicV3::default()
    };
    let implementer = Frame::DISTRIBUTOR.get(calls, GICD_IIDR, false)?;
    saved.config.implementer = u32::try_from(implementer).unwrap_or(0);
    saved.distributor = save_banks(
        calls,
        Frame::DISTRIBUTOR,
        &distributor(saved.config.interrupts),
    )?;
    for &mpidr in mpidrs {
        let registers = save_banks(calls, redistributor_frame(mpidr), &REDISTRIBUTOR)?;
        saved.redistributors.push(Redistributor {
            mpidr,
            registers,
            lines: 0,
        });
    }
    save_lines(calls, &mut saved)?;
    for n in 0..its_count {
        saved.its.push(save_its(calls, gic::its(n))?);
    }
    Ok(saved)
}

fn save_banks(
    calls: &mut (dyn Calls + '_),
    frame: Frame,
    banks: &[Bank],
) -> Result<Vec<GicRegister>, KvmError> {
    let mut saved = Vec::new();
    for bank in banks {
        bank.save(calls, frame, &mut saved)?;
    }
    saved.sort_unstable_by_key(|register| register.offset);
    Ok(saved)
}

/// The level of the lines of 32 interrupts; those of a shared one are asked of any vCPU.
fn lines_attribute(mpidr: u64, first: u32) -> u64 {
    affinity(mpidr) << 32 | u64::from(first)
}

fn save_lines(calls: &mut (dyn Calls + '_), saved: &mut GicV3) -> Result<(), KvmError> {
    let mut level = |mpidr, first| {
        let attribute = lines_attribute(mpidr, first);
        let level = gic::get(calls, GIC, abi::GIC_LEVEL_INFO, attribute)?;
        Ok::<_, KvmError>(u32::try_from(level & 0xffff_ffff).unwrap_or(0))
    };
    for redistributor in &mut saved.redistributors {
        redistributor.lines = level(redistributor.mpidr, 0)?;
    }
    let Some(any) = saved.redistributors.first().map(|first| first.mpidr) else {
        return Ok(());
    };
    for first in (FIRST_SHARED..saved.config.interrupts).step_by(32) {
        saved.lines.push(level(any, first)?);
    }
    Ok(())
}

fn save_its(calls: &mut (dyn Calls + '_), its: Target) -> Result<Its, KvmError> {
    let mut saved = Its {
        base: gic::get(calls, its, abi::GIC_ADDR, abi::ADDR_ITS)?,
        ..Its::default()
    };
    for offset in ITS.into_iter().chain([ITS_CTLR]) {
        let value = gic::get(calls, its, abi::GIC_ITS_REGS, offset.into())?;
        saved.registers.push(GicRegister { offset, value });
    }
    saved.registers.sort_unstable_by_key(|r| r.offset);
    Ok(saved)
}

/// Has the controller and its services settle what they are; every vCPU was made before.
pub(super) fn finish_making(
    calls: &mut (dyn Calls + '_),
    its_count: usize,
) -> Result<(), KvmError> {
    gic::command(calls, GIC, abi::CTRL_INIT)?;
    (0..its_count).try_for_each(|n| gic::command(calls, gic::its(n), abi::CTRL_INIT))
}

/// Writes the controller, each vCPU's interface to it, and its services. No vCPU runs, and guest
/// memory is in place: the tables are there.
pub(super) fn restore(
    calls: &mut (dyn Calls + '_),
    saved: &GicV3,
    icc: &[(u64, &[SystemRegister])],
) -> Result<(), KvmError> {
    // First: the revision decides what the other registers mean, the groups above all.
    let implementer = saved.config.implementer.into();
    Frame::DISTRIBUTOR.set(calls, GICD_IIDR, implementer, false)?;
    for bank in distributor(saved.config.interrupts) {
        bank.restore(calls, Frame::DISTRIBUTOR, &saved.distributor)?;
    }
    for redistributor in &saved.redistributors {
        let frame = redistributor_frame(redistributor.mpidr);
        for bank in REDISTRIBUTOR {
            bank.restore(calls, frame, &redistributor.registers)?;
        }
    }
    for (mpidr, registers) in icc {
        restore_icc(calls, *mpidr, registers)?;
    }
    restore_lines(calls, saved)?;
    for (n, its) in saved.its.iter().enumerate() {
        restore_its(calls, gic::its(n), its)?;
    }
    Ok(())
}

/// A line that is asserted is not the same as an interrupt that is pending: a device that lowers
/// its line must find it high.
fn restore_lines(calls: &mut (dyn Calls + '_), saved: &GicV3) -> Result<(), KvmError> {
    let mut set = |mpidr, first, level: u32| {
        let attribute = lines_attribute(mpidr, first);
        gic::set(calls, GIC, abi::GIC_LEVEL_INFO, attribute, level.into())
    };
    for redistributor in &saved.redistributors {
        set(redistributor.mpidr, 0, redistributor.lines)?;
    }
    let Some(any) = saved.redistributors.first().map(|first| first.mpidr) else {
        return Ok(());
    };
    let firsts = (FIRST_SHARED..saved.config.interrupts).step_by(32);
    for (first, level) in firsts.zip(&saved.lines) {
        set(any, first, *level)?;
    }
    Ok(())
}

fn restore_its(calls: &mut (dyn Calls + '_), its: Target, saved: &Its) -> Result<(), KvmError> {
    let mut set = |offset: u32| {
        let found = saved.registers.iter().find(|r| r.offset == offset);
        found.map_or(Ok(()), |register| {
            gic::set(calls, its, abi::GIC_ITS_REGS, offset.into(), register.value)
        })
    };
    ITS.into_iter().try_for_each(&mut set)?;
    // Reads the tables that the registers name; one that is damaged is refused.
    gic::command(calls, its, abi::CTRL_ITS_RESTORE_TABLES)?;
    // Last: from here on it serves.
    let control = saved.registers.iter().find(|r| r.offset == ITS_CTLR);
    control.map_or(Ok(()), |register| {
        let (group, offset) = (abi::GIC_ITS_REGS, ITS_CTLR.into());
        gic::set(calls, its, group, offset, register.value)
    })
}
