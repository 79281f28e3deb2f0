//! The arithmetic that carries a guest's time stamp counter to another host.

use std::time::SystemTime;

use hypervisor_bridge::ClockPolicy;
use kvm_bindings as kvm;
use snapshot_format::state::{Clock, Reason};

/// Why the guest's clock cannot do what is asked of it.
pub(super) fn misfit(saved: Option<&Clock>, policy: ClockPolicy) -> Option<Reason> {
    let dated = saved.is_some_and(|clock| clock.realtime_ns != 0);
    match policy {
        ClockPolicy::Advance if !dated => Some(Reason::WallClock {
            missing: "the snapshot does not say when it was taken",
        }),
        _ => None,
    }
}

/// What to hand to `KVM_SET_CLOCK`, by a policy that the saved clock can keep.
///
/// Only the real-time flag is accepted as input: the kernel refuses its own `TSC_STABLE` and
/// `HOST_TSC`. Where one of both kernels has no real time, what has passed since `saved` is added
/// here, by `wall_ns`, what the host's wall clock says now; never less than nothing.
pub(super) fn clock_to_set(
    saved: &Clock,
    policy: ClockPolicy,
    kernel_has_realtime: bool,
    wall_ns: u64,
) -> kvm::kvm_clock_data {
    let plain = kvm::kvm_clock_data {
        clock: saved.clock_ns,
        ..Default::default()
    };
    match policy {
        ClockPolicy::Advance
            if kernel_has_realtime && saved.flags & kvm::KVM_CLOCK_REALTIME != 0 =>
        {
            kvm::kvm_clock_data {
                flags: kvm::KVM_CLOCK_REALTIME,
                realtime: saved.realtime_ns,
                ..plain
            }
        }
        ClockPolicy::Advance => kvm::kvm_clock_data {
            clock: saved
                .clock_ns
                .saturating_add(wall_ns.saturating_sub(saved.realtime_ns)),
            ..plain
        },
        _ => plain,
    }
}

/// The host's wall clock in nanoseconds since 1970; 0 where it is set to before that.
pub(super) fn wall_clock_ns() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(0))
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
    let hosts_differ = i128::from(source.host_tsc) - i128::from(target.host_tsc);
    let exact = i128::from(offset) + ticks_passed(khz, source, target) + hosts_differ;
    u64::try_from(exact.rem_euclid(1 << 64)).ok()
}

/// How many ticks a TSC of this frequency makes while the guest's clock goes from `source` to
/// `target`, which may be before it. Less than 2^97 in size.
pub(super) fn ticks_passed(khz: u32, source: &Clock, target: &Clock) -> i128 {
    let passed_ns = i128::from(target.clock_ns) - i128::from(source.clock_ns);
    (passed_ns * i128::from(khz)).div_euclid(NS_PER_MS)
}

/// Nanoseconds while a counter of 1 kHz makes a tick.
const NS_PER_MS: i128 = 1_000_000;

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
mod tests;
