use proptest::prelude::*;

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

/// A host: its TSC stands at `tsc_at_zero` when its time is 0, and goes on at `khz`.
#[derive(Clone, Copy, Debug)]
struct Host {
    tsc_at_zero: u64,
    khz: u32,
}

impl Host {
    fn tsc(&self, at_ns: u64) -> u64 {
        let ticks = u128::from(at_ns) * u128::from(self.khz) / 1_000_000;
        let low = u64::try_from(ticks & u128::from(u64::MAX)).unwrap();
        self.tsc_at_zero.wrapping_add(low)
    }
}

/// A guest's counter, as the processor makes it.
fn guest_tsc(host: &Host, at_ns: u64, offset: u64) -> u64 {
    host.tsc(at_ns).wrapping_add(offset)
}

fn host(khz: u32) -> impl Strategy<Value = Host> {
    any::<u64>().prop_map(move |tsc_at_zero| Host { tsc_at_zero, khz })
}

/// Ten years in nanoseconds.
const YEARS: u64 = 315_360_000_000_000_000;

proptest! {
    // spec: KVX-13
    #[test]
    fn every_counter_advances_as_the_clock_does_and_stays_as_far_from_the_others(
        (source, target) in (1_000..=10_000_000_u32).prop_flat_map(|khz| (host(khz), host(khz))),
        (saved_at, restored_at, run_at) in (0..YEARS, 0..YEARS, 0..YEARS),
        (clock_saved, clock_restored) in (0..YEARS, 0..YEARS),
        offsets in proptest::collection::vec(any::<u64>(), 1..5),
    ) {
        let khz = source.khz;
        let from = clock(clock_saved, source.tsc(saved_at));
        let to = clock(clock_restored, target.tsc(restored_at));
        let moved: Vec<u64> = offsets
            .iter()
            .map(|&offset| offset_on_target(offset, khz, &from, &to).unwrap())
            .collect();

        // What the clock went, the counter went: to a tick, however large the numbers.
        let before = guest_tsc(&source, saved_at, offsets[0]);
        let after = guest_tsc(&target, restored_at, moved[0]);
        let passed = i128::from(clock_restored) - i128::from(clock_saved);
        let expected = (passed * i128::from(khz)).div_euclid(1_000_000).rem_euclid(1 << 64);
        prop_assert_eq!(i128::from(after.wrapping_sub(before)), expected);

        // One computation: what lay between two vCPUs lies between them still, at any time.
        for (old, new) in offsets.iter().zip(&moved) {
            prop_assert_eq!(
                guest_tsc(&source, run_at, *old).wrapping_sub(guest_tsc(&source, run_at, offsets[0])),
                guest_tsc(&target, run_at, *new).wrapping_sub(guest_tsc(&target, run_at, moved[0]))
            );
        }
    }

    // spec: KVX-13
    #[test]
    fn a_guest_that_was_stopped_never_sees_its_counter_go_back(
        (source, target) in (1_000..=10_000_000_u32).prop_flat_map(|khz| (host(khz), host(khz))),
        seen_at in 0..YEARS,
        stopped_ns in 0..1_000_000_000_u64,
        read_back_ns in 0..1_000_000_u64,
        entered_ns in 0..1_000_000_000_u64,
        restored_at in 0..YEARS,
        // A counter that starts anew with the guest, so that none wraps within the years.
        age in 0..YEARS,
    ) {
        let khz = source.khz;
        let offset = 0_u64.wrapping_sub(source.tsc(seen_at.saturating_sub(age)));
        let last_seen = guest_tsc(&source, seen_at, offset);
        let saved_at = seen_at + stopped_ns;
        let from = clock(5_000, source.tsc(saved_at));
        // A frozen clock is read back a little after it was set.
        let to = clock(5_000 + read_back_ns, target.tsc(restored_at));
        let moved = offset_on_target(offset, khz, &from, &to).unwrap();
        let first_seen = guest_tsc(&target, restored_at + entered_ns, moved);
        prop_assert!(first_seen.wrapping_sub(last_seen) < 1 << 62, "{last_seen} then {first_seen}");
    }
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
fn a_clock_advances_only_where_the_snapshot_says_when_it_was_taken() {
    let dated = clock(5, 6);
    let undated = Clock {
        realtime_ns: 0,
        ..dated
    };
    let refused = |clock, policy| misfit(clock, policy).is_some();
    assert!(!refused(Some(&dated), ClockPolicy::Advance));
    assert!(refused(Some(&undated), ClockPolicy::Advance));
    assert!(refused(None, ClockPolicy::Advance));
    assert!(!refused(Some(&undated), ClockPolicy::Frozen));
}

// spec: KVX-12
#[test]
fn only_the_real_time_flag_goes_back_to_the_kernel() {
    let saved = clock(5, 6);
    let frozen = clock_to_set(&saved, ClockPolicy::Frozen, true, 1_000);
    assert_eq!((frozen.clock, frozen.flags, frozen.realtime), (5, 0, 0));
    let set = clock_to_set(&saved, ClockPolicy::Advance, true, 1_000);
    assert_eq!(
        (set.clock, set.flags, set.realtime, set.host_tsc),
        (5, kvm::KVM_CLOCK_REALTIME, 77, 0)
    );
}

// spec: KVX-12
#[test]
fn a_kernel_without_real_time_gets_the_clock_put_ahead() {
    let saved = clock(5, 6);
    let set = clock_to_set(&saved, ClockPolicy::Advance, false, 1_077);
    assert_eq!((set.clock, set.flags, set.realtime), (1_005, 0, 0));
    // A wall clock that was set back takes nothing from the guest.
    let set = clock_to_set(&saved, ClockPolicy::Advance, false, 3);
    assert_eq!(set.clock, 5);
}
