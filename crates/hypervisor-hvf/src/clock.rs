//! The guest's counter, on a host whose own counter stands elsewhere.

use hypervisor_bridge::ClockPolicy;

use crate::hv::HostTime;

/// Where a guest's counter stood, and when that was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct SavedClock {
    /// `CNTVCT_EL0`.
    pub(crate) count: u64,
    /// The wall clock of the host, in nanoseconds.
    pub(crate) wall_ns: u64,
    /// Ticks in a second.
    pub(crate) hz: u64,
}

impl SavedClock {
    /// Where the counter goes on.
    pub(crate) fn count_at(&self, now: HostTime, policy: ClockPolicy) -> u64 {
        if policy != ClockPolicy::Advance {
            return self.count;
        }
        let passed_ns = u128::from(now.wall_ns.saturating_sub(self.wall_ns));
        let ticks = passed_ns * u128::from(self.hz) / 1_000_000_000;
        // More ticks than 64 bits hold would take a clock that is wrong by centuries.
        let ticks = u64::try_from(ticks).unwrap_or(0);
        self.count.wrapping_add(ticks)
    }

    /// The offset of every vCPU's counter: `count = absolute - offset`, modulo 2^64. After a
    /// restart of the host its counter may be behind the guest's.
    pub(crate) fn offset_at(&self, now: HostTime, policy: ClockPolicy) -> u64 {
        now.absolute.wrapping_sub(self.count_at(now, policy))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HZ: u64 = 24_000_000;

    fn at(absolute: u64, wall_ns: u64) -> HostTime {
        HostTime { absolute, wall_ns }
    }

    // spec: HVF-08
    #[test]
    fn a_counter_goes_on_where_it_stopped_also_after_the_host_restarted() {
        let saved = SavedClock {
            count: 1 << 40,
            wall_ns: 5_000_000_000,
            hz: HZ,
        };
        for time in [at(1 << 41, 9), at(1000, u64::MAX)] {
            let offset = saved.offset_at(time, ClockPolicy::Frozen);
            assert_eq!(time.absolute.wrapping_sub(offset), saved.count);
            // One tick later, the guest reads one more.
            assert_eq!((time.absolute + 1).wrapping_sub(offset), saved.count + 1);
        }
    }

    // spec: HVF-09
    #[test]
    fn a_counter_that_advances_takes_up_the_wall_time_and_never_goes_back() {
        let saved = SavedClock {
            count: 77,
            wall_ns: 5_000_000_000,
            hz: HZ,
        };
        let advance = |wall_ns| saved.count_at(at(3, wall_ns), ClockPolicy::Advance);
        assert_eq!(advance(7_500_000_000), 77 + HZ * 5 / 2);
        assert_eq!(advance(4_000_000_000), 77);
    }
}
