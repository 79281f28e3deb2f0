//! The arithmetic that carries a guest's time stamp counter to another host.

use kvm_bindings as kvm;
use snapshot_format::state::Clock;

/// What the guest's clock does with the time between snapshot and restore.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum ClockPolicy {
    /// It goes on where it stopped.
    #[default]
    Frozen,
    /// It goes on as if the guest had never stopped, as far as the hosts' wall clocks are right.
    Advance,
}

/// What to hand to `KVM_SET_CLOCK`.
///
/// Only the real-time flag is accepted as input: the kernel refuses its own `TSC_STABLE` and
/// `HOST_TSC`.
pub(super) fn clock_to_set(saved: &Clock, policy: ClockPolicy) -> kvm::kvm_clock_data {
    let advance = policy == ClockPolicy::Advance && saved.flags & kvm::KVM_CLOCK_REALTIME != 0;
    kvm::kvm_clock_data {
        clock: saved.clock_ns,
        flags: if advance { kvm::KVM_CLOCK_REALTIME } else { 0 },
        realtime: if advance { saved.realtime_ns } else { 0 },
        ..Default::default()
    }
}

/// The TSC offset of a vCPU on the target, so that its TSC agrees with the guest's clock as it did
/// on the source; `None` where a host does not say what its TSC was.
///
/// `source` is the clock as saved, `target` as read back after it was set, and `khz` the
/// frequency of the guest's TSC, which must be that of both hosts. The formula is that of the
/// kernel's `Documentation/virt/kvm/devices/vcpu.rst`, in 128 bits and then modulo 2^64.
pub(super) fn offset_on_target(
    offset: u64,
    khz: u32,
    source: &Clock,
    target: &Clock,
) -> Option<u64> {
    let has_tsc = |clock: &Clock| clock.flags & kvm::KVM_CLOCK_HOST_TSC != 0;
    if !has_tsc(source) || !has_tsc(target) || khz == 0 {
        return None;
    }
    let behind_ns = i128::from(source.clock_ns) - i128::from(target.clock_ns);
    let behind_ticks = behind_ns * i128::from(khz) / 1_000_000;
    let hosts_differ = i128::from(source.host_tsc) - i128::from(target.host_tsc);
    let exact = i128::from(offset) - behind_ticks + hosts_differ;
    u64::try_from(exact.rem_euclid(1 << 64)).ok()
}

/// A vCPU's counter at one instant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Counter {
    /// What the guest reads.
    pub(super) tsc: u64,
    /// The part of it that is the offset.
    pub(super) offset: u64,
}

/// What to add to each saved offset so that the guest's counters go on where they stopped, on a
/// host whose clock does not say what its TSC was.
///
/// `saved` and `now` are of the same vCPU, on the source and on the target. What was added is the
/// same for all vCPUs, so that they stay as far apart as they were.
pub(super) fn shift_of_offsets(saved: Counter, now: Counter) -> u64 {
    let host_saved = saved.tsc.wrapping_sub(saved.offset);
    let host_now = now.tsc.wrapping_sub(now.offset);
    host_saved.wrapping_sub(host_now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shifted_offsets_let_the_counter_go_on_where_it_stopped() {
        let saved = Counter {
            tsc: 500,
            offset: 0_u64.wrapping_sub(1_000),
        };
        let now = Counter {
            tsc: 7,
            offset: 0_u64.wrapping_sub(90),
        };
        let offset = saved.offset.wrapping_add(shift_of_offsets(saved, now));
        let host_now = now.tsc.wrapping_sub(now.offset);
        assert_eq!(host_now.wrapping_add(offset), saved.tsc);
    }

    fn clock(clock_ns: u64, host_tsc: u64) -> Clock {
        Clock {
            clock_ns,
            host_tsc,
            flags: kvm::KVM_CLOCK_HOST_TSC | kvm::KVM_CLOCK_REALTIME,
            realtime_ns: 77,
        }
    }

    #[test]
    fn the_guest_tsc_advances_exactly_as_its_clock() {
        const KHZ: u32 = 2_500_000;
        // The target's TSC is far behind the source's: the offset wraps.
        let (source, target) = (clock(1_000_000, 1 << 60), clock(3_000_000, 5_000));
        let offset = 0_u64.wrapping_sub(1 << 59);
        let moved = offset_on_target(offset, KHZ, &source, &target).unwrap();
        let guest_before = source.host_tsc.wrapping_add(offset);
        let guest_after = target.host_tsc.wrapping_add(moved);
        assert_eq!(guest_after - guest_before, 2 * u64::from(KHZ));
    }

    #[test]
    fn a_clock_that_went_back_takes_the_tsc_with_it() {
        let (source, target) = (clock(3_000_000, 900), clock(1_000_000, 900));
        assert_eq!(
            offset_on_target(0, 1_000_000, &source, &target),
            Some(0_u64.wrapping_sub(2_000_000))
        );
    }

    #[test]
    fn without_the_host_tsc_there_is_no_offset() {
        let mut source = clock(1, 1);
        source.flags = kvm::KVM_CLOCK_REALTIME;
        assert_eq!(offset_on_target(0, 1, &source, &clock(1, 1)), None);
    }

    #[test]
    fn only_the_real_time_flag_goes_back_to_the_kernel() {
        let saved = clock(5, 6);
        assert_eq!(clock_to_set(&saved, ClockPolicy::Frozen).flags, 0);
        let set = clock_to_set(&saved, ClockPolicy::Advance);
        assert_eq!(
            (set.flags, set.realtime, set.host_tsc),
            (kvm::KVM_CLOCK_REALTIME, 77, 0)
        );
    }
}
