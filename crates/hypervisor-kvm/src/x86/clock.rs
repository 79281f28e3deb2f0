//! The arithmetic that carries a guest's time stamp counter to another host.

use hypervisor_bridge::ClockPolicy;
use kvm_bindings as kvm;
use snapshot_format::state::{Clock, Reason};

/// Why the guest's clock cannot do what is asked of it; `accepted` are the flags that the host takes
/// (`KVM_CAP_ADJUST_CLOCK`).
pub(super) fn misfit(saved: Option<&Clock>, policy: ClockPolicy, accepted: u32) -> Option<Reason> {
    let dated = saved.is_some_and(|clock| clock.flags & kvm::KVM_CLOCK_REALTIME != 0);
    let missing = match policy {
        ClockPolicy::Advance if !dated => "the snapshot does not say when it was taken",
        ClockPolicy::Advance if accepted & kvm::KVM_CLOCK_REALTIME == 0 => {
            "the host's KVM takes no time of day"
        }
        _ => return None,
    };
    Some(Reason::WallClock { missing })
}

/// What to hand to `KVM_SET_CLOCK`, where [`misfit`] has no objection.
///
/// Only the real-time flag is accepted as input: the kernel refuses its own `TSC_STABLE` and
/// `HOST_TSC`.
pub(super) fn clock_to_set(saved: &Clock, policy: ClockPolicy) -> kvm::kvm_clock_data {
    let (flags, realtime) = match policy {
        ClockPolicy::Advance => (kvm::KVM_CLOCK_REALTIME, saved.realtime_ns),
        _ => (0, 0),
    };
    kvm::kvm_clock_data {
        clock: saved.clock_ns,
        flags,
        realtime,
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

    // spec: RES-05
    #[test]
    fn a_clock_advances_only_where_both_sides_know_the_time_of_day() {
        let dated = clock(5, 6);
        let mut undated = dated;
        undated.flags = kvm::KVM_CLOCK_HOST_TSC;
        let takes = kvm::KVM_CLOCK_REALTIME;
        let refused = |clock, policy, accepted| misfit(clock, policy, accepted).is_some();
        assert!(!refused(Some(&dated), ClockPolicy::Advance, takes));
        assert!(refused(Some(&undated), ClockPolicy::Advance, takes));
        assert!(refused(Some(&dated), ClockPolicy::Advance, !takes));
        assert!(refused(None, ClockPolicy::Advance, takes));
        assert!(!refused(Some(&undated), ClockPolicy::Frozen, 0));
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
