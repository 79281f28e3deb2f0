//! The generic timers, and the counter that they compare with.

use snapshot_format::state::{CounterOffset, Timer, TimersArm64, VmArm64};

use super::{abi, registers};
use crate::calls::{Arg, Calls, Target};
use crate::error::KvmError;
use crate::lists::write;
use crate::request::arm64 as req;

/// What is read and written here, and not with the other registers.
pub(super) const REGISTERS: [u64; 6] = [
    abi::VTIMER_CTL,
    abi::VTIMER_CVAL,
    abi::VTIMER_CNT,
    abi::PTIMER_CTL,
    abi::PTIMER_CVAL,
    abi::PTIMER_CNT,
];

/// Enable and mask; the third bit is a status that follows the counter.
const CONTROL: u64 = 0b011;

const NS_PER_S: u128 = 1_000_000_000;

/// Reads timers and counters of a vCPU.
pub(super) fn save(calls: &mut (dyn Calls + '_), vcpu: usize) -> Result<TimersArm64, KvmError> {
    let mut get = |id| registers::get(calls, vcpu, id);
    Ok(TimersArm64 {
        virtual_count: get(abi::VTIMER_CNT)?,
        physical_count: get(abi::PTIMER_CNT)?,
        virtual_timer: Timer {
            control: get(abi::VTIMER_CTL)? & CONTROL,
            compare: get(abi::VTIMER_CVAL)?,
        },
        physical_timer: Timer {
            control: get(abi::PTIMER_CTL)? & CONTROL,
            compare: get(abi::PTIMER_CVAL)?,
        },
        virtual_masked: false,
    })
}

/// Writes the comparators of a vCPU. The counter must be right: what it has passed fires.
pub(super) fn restore(
    calls: &mut (dyn Calls + '_),
    vcpu: usize,
    timers: &TimersArm64,
) -> Result<(), KvmError> {
    let mut set = |id, value| registers::set(calls, vcpu, id, value);
    // The comparator before the control that arms it.
    set(abi::VTIMER_CVAL, timers.virtual_timer.compare)?;
    set(abi::VTIMER_CTL, timers.virtual_timer.control & CONTROL)?;
    set(abi::PTIMER_CVAL, timers.physical_timer.compare)?;
    set(abi::PTIMER_CTL, timers.physical_timer.control & CONTROL)
}

/// Whether both counters of the machine have one offset. No vCPU runs.
///
/// A physical count that lies between two virtual ones is the same counter.
pub(super) fn offset_of_machine(calls: &mut (dyn Calls + '_)) -> Result<CounterOffset, KvmError> {
    let mut get = |id| registers::get(calls, 0, id);
    let before = get(abi::VTIMER_CNT)?;
    let physical = get(abi::PTIMER_CNT)?;
    let after = get(abi::VTIMER_CNT)?;
    let is_between = physical.wrapping_sub(before) <= after.wrapping_sub(before);
    Ok(if is_between {
        CounterOffset::Shared
    } else {
        CounterOffset::Separate
    })
}

/// Ticks to add to the saved counts so that the guest sees the time that has passed; 0 where the
/// wall clock says that none has.
pub(super) fn elapsed_ticks(vm: &VmArm64, wall_clock_ns: u64) -> u64 {
    let ns = u128::from(wall_clock_ns.saturating_sub(vm.wall_clock_ns));
    let ticks = ns * u128::from(vm.counter_hz) / NS_PER_S;
    u64::try_from(ticks).unwrap_or(u64::MAX)
}

/// Lets the guest's counters go on from `saved`, plus `elapsed` ticks: once for the machine.
///
/// The vCPUs have been made, and the comparators have not been written.
pub(super) fn restore_counter(
    calls: &mut (dyn Calls + '_),
    saved: &TimersArm64,
    offset: CounterOffset,
    elapsed: u64,
    has_offset: bool,
) -> Result<(), KvmError> {
    let count = saved.virtual_count.wrapping_add(elapsed);
    if offset == CounterOffset::Shared && has_offset {
        // With no offset the guest's count is the host's.
        set_offset(calls, 0)?;
        let host = registers::get(calls, 0, abi::VTIMER_CNT)?;
        // Modulo 2^64: a host that was started after the guest is behind it.
        return set_offset(calls, host.wrapping_sub(count));
    }
    registers::set(calls, 0, abi::VTIMER_CNT, count)?;
    let physical = saved.physical_count.wrapping_add(elapsed);
    if has_offset {
        return registers::set(calls, 0, abi::PTIMER_CNT, physical);
    }
    // Before Linux 6.4 guests see the physical counter of the host, and nothing changes it.
    tracing::warn!("this host has no counter offset: the guest's physical counter jumps");
    Ok(())
}

/// `struct kvm_arm_counter_offset`: what is subtracted from the host's count, for both counters of
/// every vCPU. From then on writes of the count of a vCPU are ignored.
fn set_offset(calls: &mut (dyn Calls + '_), offset: u64) -> Result<(), KvmError> {
    let mut bytes = [0; 16];
    write(&mut bytes, 0, &offset);
    let arg = Arg::Bytes(&mut bytes);
    calls
        .make(Target::Vm, req::KVM_ARM_SET_COUNTER_OFFSET, arg)
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elapsed_time_is_counted_in_ticks_and_never_backwards() {
        let vm = VmArm64 {
            counter_hz: 24_000_000,
            wall_clock_ns: 1_000,
            ..VmArm64::default()
        };
        assert_eq!(elapsed_ticks(&vm, 1_000_001_000), 24_000_000);
        assert_eq!(elapsed_ticks(&vm, 999), 0);
        // A year at 1 GHz.
        let vm = VmArm64 {
            counter_hz: 1_000_000_000,
            ..vm
        };
        let year = 31_536_000 * 1_000_000_000;
        assert_eq!(elapsed_ticks(&vm, year + 1_000), year);
    }
}
