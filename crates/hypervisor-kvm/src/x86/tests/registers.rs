//! Model-specific registers, shadow stacks and machine checks.

use super::*;

// spec: STA-07
#[test]
fn a_refused_register_is_named_unless_the_policy_drops_it() {
    let recorder = Recorder::default();
    recorder.refuse_msr(0x277);
    let mut strict = machine(&recorder, 1);
    let error = restore(&mut strict, &[vcpu(0)]).unwrap_err();
    let error = error.downcast_ref::<KvmError>();
    let Some(KvmError::MsrsRefused { vcpu: 0, refused }) = error else {
        panic!("{error:?}");
    };
    let pat = Msr {
        index: 0x277,
        value: 6,
    };
    assert_eq!(refused, &[pat]);

    let mut options = KvmOptions::new(KernelDevices::ALL);
    options.msrs = MsrPolicy::default().drop_refused(0x277);
    let mut lenient = with_options(&recorder, 1, options);
    restore(&mut lenient, &[vcpu(0)]).unwrap();
    // What comes after the refused one is still written.
    let made = recorder.made();
    assert!(
        made.contains(&"0: KVM_SET_MSRS 0x38f 0x6e0".to_owned()),
        "{made:?}"
    );
    // And the caller hears of it.
    let dropped = DroppedMsr { vcpu: 0, msr: pat };
    assert_eq!(lenient.report().dropped_msrs, [dropped]);
}

#[test]
fn a_register_that_cannot_be_read_is_skipped_and_those_after_it_are_not() {
    let recorder = Recorder::default();
    recorder.refuse_msr(0x174);
    let mut machine = machine(&recorder, 1);
    let saved = machine.save_vcpu(0, &fake_paused()).unwrap();
    let indices: Vec<u32> = saved.msrs.iter().map(|msr| msr.index).collect();
    assert!(
        !indices.contains(&0x174) && indices.contains(&0x175),
        "{indices:x?}"
    );
    assert_eq!(indices.last(), Some(&0x6e0));
    assert!(!indices.contains(&0x49), "a command register was saved");
}

// spec: KVX-10
#[test]
fn a_register_that_holds_its_value_already_needs_no_policy() {
    let recorder = Recorder::default();
    recorder.constant_msr(0xfe, 0x508);
    let mut machine = machine(&recorder, 1);
    let mut saved = vcpu(0);
    let mtrr_cap = |value| Msr { index: 0xfe, value };
    saved.msrs.insert(2, mtrr_cap(0x508));
    restore(&mut machine, &[saved.clone()]).unwrap();
    assert_eq!(machine.report().dropped_msrs, []);
    saved.msrs[2] = mtrr_cap(0x50a);
    let refused = restore(&mut machine, &[saved]).unwrap_err();
    assert!(
        refused.to_string().contains("MSR 0xfe = 0x50a"),
        "{refused}"
    );
}

// spec: KVX-08
#[test]
fn mtrrs_and_machine_check_banks_are_as_many_as_the_vcpu_says() {
    let recorder = Recorder::default();
    recorder.constant_msr(0xfe, 0x503);
    recorder.constant_msr(0x179, 1 << 10 | 2);
    let mut machine = machine(&recorder, 1);
    let saved = machine.save_vcpu(0, &fake_paused()).unwrap();
    let within = |from: u32, to: u32| {
        let msrs = saved.msrs.iter().map(|msr| msr.index);
        msrs.filter(|index| (from..=to).contains(index)).count()
    };
    assert_eq!(within(0x200, 0x24f), 6, "three pairs of variable MTRRs");
    assert_eq!(within(0x400, 0x47f), 8, "two banks of four");
    assert_eq!(within(0x280, 0x29f), 2, "a threshold for each bank");
    // Where the processor has none, none is asked for.
    let bare = Recorder::default();
    let saved = super::machine(&bare, 1)
        .save_vcpu(0, &fake_paused())
        .unwrap();
    assert!(
        saved
            .msrs
            .iter()
            .all(|msr| !(0x400..0x480).contains(&msr.index))
    );
}

// spec: KVX-06
#[test]
fn machine_check_banks_are_made_before_their_registers_are_written() {
    let recorder = Recorder::default();
    let mut saved = vcpu(0);
    let capabilities = 1 << 24 | 0xa;
    recorder.constant_msr(0x179, capabilities);
    let msr = |index, value| Msr { index, value };
    saved.msrs.insert(2, msr(0x179, capabilities));
    saved.msrs.insert(5, msr(0x400, u64::MAX));
    let mut machine = machine(&recorder, 1);
    restore(&mut machine, &[saved]).unwrap();
    let made = recorder.made();
    let at = |part: &str| made.iter().position(|call| call.contains(part)).unwrap();
    assert!(at("KVM_SET_CPUID2") < at("KVM_X86_SETUP_MCE"));
    assert!(at("KVM_X86_SETUP_MCE") < at("KVM_SET_MSRS"));
    let set = recorder.argument("KVM_X86_SETUP_MCE");
    assert_eq!(set, capabilities.to_le_bytes());
}

// spec: KVX-07
#[test]
fn what_system_registers_are_judged_by_comes_before_them() {
    let recorder = Recorder::default();
    let mut saved = vcpu(0);
    let msr = |index, value| Msr { index, value };
    saved.msrs = vec![
        msr(0x3a, 5),
        msr(0x10a, 1),
        msr(0x277, 6),
        msr(0x480, 2),
        msr(0xda0, 0x800),
    ];
    restore(&mut machine(&recorder, 1), &[saved]).unwrap();
    let made = recorder.changes();
    let at = |call: &str| made.iter().position(|made| made == call);
    let features = at("0: KVM_SET_MSRS 0x3a 0x10a 0x480 0xda0");
    assert!(features.is_some(), "{made:?}");
    assert!(features < at("0: KVM_SET_SREGS2"));
    assert!(features < at("0: KVM_SET_XSAVE"));
    assert!(at("0: KVM_SET_LAPIC") < at("0: KVM_SET_MSRS 0x277"));
}

// spec: KVX-11
#[test]
fn the_shadow_stack_pointer_of_a_guest_that_has_one_comes_back() {
    let recorder = Recorder::default();
    recorder.answer_cpuid(kvm::kvm_cpuid_entry2 {
        function: 7,
        ecx: 1 << 7,
        ..Default::default()
    });
    let mut machine = machine(&recorder, 1);
    let saved = machine.save_vcpu(0, &fake_paused()).unwrap();
    assert_eq!(saved.guest_ssp, Some(0x5a5a_5a5a_5a5a_5a5a));
    let saved = VcpuX86 {
        guest_ssp: Some(0x7fff_0008),
        ..vcpu(0)
    };
    restore(&mut machine, &[saved]).unwrap();
    let made = recorder.changes();
    let id = "0: KVM_SET_ONE_REG 0x2030000300000000";
    let at = |call: &str| made.iter().position(|made| made == call);
    assert!(at(id).is_some(), "{made:?}");
    assert!(at(id) < at("0: KVM_SET_VCPU_EVENTS"));
    let set = recorder.argument("KVM_SET_ONE_REG");
    assert_eq!(set, 0x7fff_0008_u64.to_le_bytes());

    // A guest that was shown none is not asked: kernels without the register refuse.
    let plain = Recorder::default();
    let saved = super::machine(&plain, 1)
        .save_vcpu(0, &fake_paused())
        .unwrap();
    assert_eq!(saved.guest_ssp, None);
}

// spec: KVX-04
#[test]
fn state_that_this_build_does_not_know_is_not_lost_silently() {
    let events = kvm::kvm_vcpu_events {
        flags: 1 << 6,
        ..Default::default()
    };
    let mut tail = kvm::kvm_vcpu_events::default();
    tail.reserved[25] = 1;
    let debug = kvm::kvm_debugregs {
        reserved: [0, 0, 0, 0, 0, 0, 0, 0, 1],
        ..Default::default()
    };
    let newer = |tell: &dyn Fn(&Recorder)| {
        let recorder = Recorder::default();
        tell(&recorder);
        let refused = machine(&recorder, 1).save_vcpu(0, &fake_paused());
        let refused = refused.unwrap_err();
        assert!(
            matches!(refused, KvmError::UnknownState { vcpu: Some(0), .. }),
            "{refused}"
        );
    };
    newer(&|kernel| kernel.answer_events(events));
    newer(&|kernel| kernel.answer_events(tail));
    newer(&|kernel| kernel.answer_debug(debug));
}

// spec: KVX-05
#[test]
fn a_pending_exception_without_payloads_is_one_that_was_injected() {
    let saved = |flags| {
        let recorder = Recorder::default();
        let mut events = kvm::kvm_vcpu_events {
            flags,
            ..Default::default()
        };
        (events.exception.pending, events.exception.injected) = (1, 1);
        recorder.answer_events(events);
        let saved = machine(&recorder, 1).save_vcpu(0, &fake_paused()).unwrap();
        let exception = saved.events.exception;
        (exception.pending, exception.injected)
    };
    assert_eq!(saved(0), (0, 1));
    assert_eq!(saved(kvm::KVM_VCPUEVENT_VALID_PAYLOAD), (1, 1));
}
