//! Time stamp counters, their deadlines, and the clock.

use super::*;

/// What a guest read on the source, so far as the host's counter was at `host`.
fn counters(vcpus: &mut [VcpuX86], offsets: &[u64], host: u64) {
    for (vcpu, offset) in vcpus.iter_mut().zip(offsets) {
        vcpu.tsc_offset = Some(*offset);
        vcpu.msrs[0].value = host.wrapping_add(*offset);
    }
}

// spec: KVX-13
#[test]
fn all_counters_are_set_from_one_computation() {
    let recorder = Recorder::default();
    let mut vcpus = [vcpu(0), vcpu(1), vcpu(2), vcpu(3)];
    counters(&mut vcpus, &[5, 5, 900, u64::MAX], 90);
    restore(&mut machine(&recorder, 4), &vcpus).unwrap();
    // The clock was saved at 1000 ns with the host's counter at 100, and is at 1000 ns again with
    // the target's at 40.
    let moved: Vec<u64> = (0..4).filter_map(|vcpu| recorder.offset(vcpu)).collect();
    assert_eq!(moved, [65, 65, 960, 59]);
}

// spec: KVX-14
#[test]
fn without_the_hosts_counter_in_the_clock_offsets_move_together() {
    let recorder = Recorder::default();
    recorder.answer_clock(kvm::kvm_clock_data {
        clock: 3_000,
        ..Default::default()
    });
    let mut vcpus = [vcpu(0), vcpu(1)];
    counters(&mut vcpus, &[5, 7], 1_000_000);
    let mut machine = machine(&recorder, 2);
    restore(&mut machine, &vcpus).unwrap();
    // The target's counter reads 0 at offset 0. The clock went 2000 ns on, at a tick each.
    let first = recorder.offset(0).unwrap();
    assert_eq!(first, 1_000_005 + 2_000);
    assert_eq!(recorder.offset(1).unwrap() - first, 2);
    assert_eq!(machine.report().tsc, Some(TscOutcome::ByOffset));
}

// spec: KVX-14
#[test]
fn a_scaled_counter_goes_on_where_it_was_after_its_frequency_is_set() {
    let recorder = Recorder::default();
    recorder.scale_tsc();
    let mut saved = vcpu(0);
    saved.tsc_khz = 2_000_000;
    counters(std::slice::from_mut(&mut saved), &[50], 950);
    restore(&mut machine(&recorder, 1), &[saved]).unwrap();
    let made = recorder.made();
    let at = |part: &str| made.iter().position(|call| call.contains(part)).unwrap();
    assert!(at("KVM_SET_TSC_KHZ") < at("KVM_SET_CLOCK"));
    // Not by the clock, whose ticks are those of the hosts: by what the vCPU itself read.
    assert_eq!(recorder.offset(0), Some(1_000));
}

// spec: KVX-15
#[test]
fn a_host_that_sets_no_counter_is_reported_with_the_jump() {
    let recorder = Recorder::default();
    recorder.show_host_counter(9_000_000);
    let mut machine = machine(&recorder, 2);
    restore(&mut machine, &[vcpu(0), vcpu(1)]).unwrap();
    let jump_ticks = 9_000_000 - 77;
    assert_eq!(
        machine.report().tsc,
        Some(TscOutcome::HostCounter { jump_ticks })
    );
}

// spec: KVX-15
#[test]
fn a_counter_never_goes_back_unless_the_policy_lets_it() {
    let recorder = Recorder::default();
    recorder.show_host_counter(50);
    let mut strict = machine(&recorder, 1);
    let refused = restore(&mut strict, &[vcpu(0)]).unwrap_err();
    let refused = refused.downcast_ref::<KvmError>();
    assert!(
        matches!(
            refused,
            Some(KvmError::TscGoesBack {
                vcpu: 0,
                saved: 77,
                found: 50
            })
        ),
        "{refused:?}"
    );
    let mut options = KvmOptions::new(KernelDevices::ALL);
    options.tsc = TscPolicy::MayGoBack;
    let mut lenient = with_options(&recorder, 1, options);
    restore(&mut lenient, &[vcpu(0)]).unwrap();
    assert_eq!(
        lenient.report().tsc,
        Some(TscOutcome::HostCounter { jump_ticks: -27 })
    );
}

// spec: KVX-14
#[test]
fn values_that_were_read_one_after_the_other_are_written_as_one() {
    let recorder = Recorder::default();
    let mut vcpus = [vcpu(0), vcpu(1), vcpu(2)];
    for (vcpu, value) in vcpus.iter_mut().zip([1_000, 1_700, 1_300]) {
        vcpu.tsc_offset = None;
        vcpu.msrs[0].value = value;
    }
    let mut machine = machine(&recorder, 3);
    restore(&mut machine, &vcpus).unwrap();
    let values: Vec<_> = (0..3).map(|vcpu| recorder.msr_of(vcpu, 0x10)).collect();
    assert_eq!(values, [Some(1_700); 3]);
    // Counters that were apart stay apart.
    vcpus[1].msrs[0].value = 1 << 40;
    restore(&mut machine, &vcpus).unwrap();
    let values: Vec<_> = (0..3).map(|vcpu| recorder.msr_of(vcpu, 0x10)).collect();
    assert_eq!(values, [Some(1_000), Some(1 << 40), Some(1_300)]);
}

// spec: KVX-12
#[test]
fn a_clock_that_advances_takes_the_counters_with_it() {
    let recorder = Recorder::default();
    let mut machine = machine(&recorder, 1);
    let mut machine_state = vm(1);
    let clock = machine_state.clock.as_mut().unwrap();
    (clock.realtime_ns, clock.flags) = (77, kvm::KVM_CLOCK_REALTIME);
    let sections = vec![
        SectionPayload::of(0, &vcpu(0)),
        SectionPayload::of(0, &machine_state),
    ];
    let mut offers = SectionOffers::new(sections);
    let reasons = machine.take(&mut offers, ClockPolicy::Advance).unwrap();
    assert_eq!(reasons, []);
    machine.prepare().unwrap();
    let set: kvm::kvm_clock_data = crate::lists::read(&recorder.argument("KVM_SET_CLOCK"), 0);
    assert_eq!((set.clock, set.realtime), (1_000, 77));
    assert_eq!(set.flags, kvm::KVM_CLOCK_REALTIME);
}

/// An APIC page with this entry for its timer.
fn lapic(timer: u32) -> Vec<u8> {
    let mut page = vec![0; 1024];
    crate::lists::write(&mut page, 0x320, &timer);
    page
}

const DEADLINE_MODE: u32 = 2 << 17;

// spec: KVX-16
#[test]
fn a_deadline_that_fired_between_pause_and_save_fires_again() {
    // The mode, what the deadline was before the APIC was read, and what is written.
    for (armed, expected) in [(Some(55), 55), (Some(0), 0)] {
        let recorder = Recorder::default();
        let mut saved = vcpu(0);
        saved.lapic = lapic(DEADLINE_MODE);
        saved.armed_deadline = armed;
        restore(&mut machine(&recorder, 1), &[saved]).unwrap();
        assert_eq!(recorder.msr(0x6e0), Some(expected), "{armed:?}");
    }
    // One that did not fire has its value.
    let recorder = Recorder::default();
    let mut saved = vcpu(0);
    saved.armed_deadline = Some(99);
    saved.msrs[4].value = 99;
    restore(&mut machine(&recorder, 1), &[saved]).unwrap();
    assert_eq!(recorder.msr(0x6e0), Some(99));
}

// spec: KVX-16
#[test]
fn older_state_that_does_not_say_whether_its_timer_was_armed_fires_it() {
    for (entry, expected) in [
        (DEADLINE_MODE, 77),
        (DEADLINE_MODE | 1 << 16, 0),
        (1 << 17, 0),
    ] {
        let recorder = Recorder::default();
        let mut saved = vcpu(0);
        saved.lapic = lapic(entry);
        restore(&mut machine(&recorder, 1), &[saved]).unwrap();
        assert_eq!(
            recorder.msr(0x6e0),
            Some(expected),
            "timer entry {entry:#x}"
        );
    }
}
